-- In front of every script, after the clock: what more than one verb needs.

-- The names, in order, that '/' joins: they contain none.
local function split(joined)
  local find, sub = string.find, string.sub
  local names, n, at = {}, 0, 1
  local slash = find(joined, '/', 1, true)
  while slash do
    n = n + 1
    names[n] = sub(joined, at, slash - 1)
    at = slash + 1
    slash = find(joined, '/', at, true)
  end
  if at <= #joined then names[n + 1] = sub(joined, at) end
  return names
end

-- Call a function with the names, or other values, some at a time: Lua unpacks no more than 8,000.
local function in_pieces(values, call)
  if #values <= 1000 then
    if #values > 0 then call(values) end
    return
  end
  for at = 1, #values, 1000 do
    call({unpack(values, at, math.min(at + 999, #values))})
  end
end

-- The whole number that a text is; `instead` where it is missing or anything else.
local function number_or(text, instead)
  if text and #text < 16 and string.find(text, '^%d+$') then return tonumber(text) end
  return instead
end

-- Add to a counter, and return its sum. One that holds no number begins anew: the laws tell of it.
local function count(key, name, by)
  local sum = redis.pcall('HINCRBY', key, name, by)
  if type(sum) == 'number' then return sum end
  redis.call('HSET', key, name, by)
  return tonumber(by)
end

-- What was answered to a token before, if it was.
local function answered(key)
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and value or nil
end

-- A field of a claim; nil where there is none, or where its key is no claim at all.
local function field(key, name)
  local value = redis.pcall('HGET', key, name)
  return type(value) == 'string' and value or nil
end

-- The names of a claim and these fields, in order; nil where nobody can go on with it: its key is
-- gone, or of another type, or has no names.
local function claim_fields(key, ...)
  local values = redis.pcall('HMGET', key, 'names', ...)
  if values.err or not values[1] or values[1] == '' then return nil end
  return values
end

-- The two journals of a claim, each message index to entry: that of its last owner who noted any, and
-- what earlier ones confirmed and that one has not noted again.
local function journals(key) return key .. ':journal', key .. ':earlier' end

-- Whether a key is a hash. What is something else is let go of: nobody can go on with it.
local function is_hash(key)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', key) end
  return kind == 'hash'
end

-- Add the positions, from 1, that ranges of them from 0 name: `0-41,43-43`. No more than `count`.
local function add_positions(to, ranges, count)
  for from, last in string.gmatch(ranges or '', '(%d+)-(%d+)') do
    for position = tonumber(from), math.min(tonumber(last), count - 1) do to[position + 1] = true end
  end
  return to
end

-- Let go of a claim and its journals.
local function end_claim(claims, key, id)
  redis.call('DEL', key, journals(key))
  redis.call('ZREM', claims, id)
end

-- Let go of a claim that nobody can go on with. `orphans` puts its files in line.
local function drop(claims, counters, key, id)
  end_claim(claims, key, id)
  count(counters, 'claims_dropped', 1)
end

-- Count in the minute that runs. The minutes of the last hour are kept, for whoever shows the rate;
-- the first count of a minute lets go of those before: once a minute, at most a few hundred fields.
local function tick(key, now, name, by)
  by = tonumber(by)
  if by == 0 then return end
  local minute = math.floor(now / 60000)
  if count(key, string.format('%.0f %s', minute, name), by) > by then return end
  for _, name in ipairs(redis.call('HKEYS', key)) do
    local counted = number_or(string.match(name, '^%d+'), 0)
    if counted < minute - 60 or counted > minute then redis.call('HDEL', key, name) end
  end
end

-- Whether an operator said anything of any file that is not settled yet.
local function is_any_put_back(key) return redis.call('HLEN', key) > 0 end

-- Let go of what an operator said of files that are settled now.
local function settle_put_back(key, names)
  if not is_any_put_back(key) then return end
  in_pieces(names, function(piece) redis.call('HDEL', key, unpack(piece)) end)
end

-- The indexes, from 1, of those names that no key knows: they are waiting. Also whether that is all
-- of them. Each of `hashes` and `sets` costs a look-up a name, but nothing while it is empty.
local function waiting(hashes, sets, names)
  local count, known, any = #names, {}, false
  local function look(command, key)
    local before = 0
    in_pieces(names, function(piece)
      local values = redis.call(command, key, unpack(piece))
      for i = 1, #piece do
        if values[i] then known[before + i], any = true, true end
      end
      before = before + #piece
    end)
  end
  for _, key in ipairs(hashes) do
    if redis.call('HLEN', key) > 0 then look('HMGET', key) end
  end
  for _, key in ipairs(sets) do
    if redis.call('ZCARD', key) > 0 then look('ZMSCORE', key) end
  end
  local indexes, n = {}, 0
  for i = 1, count do
    if not known[i] then
      n = n + 1
      indexes[n] = i
    end
  end
  return indexes, not any
end
