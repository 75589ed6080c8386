-- Put before every script, after the clock: functions that several scripts need.

-- Split names joined by '/', which no name contains: from a place on, at most so many, added to `names`.
-- Returns the place after them.
local function split_some(joined, at, most, names)
  local find, sub = string.find, string.sub
  local n, last = #names, #names + most
  local slash = find(joined, '/', at, true)
  while slash and n < last do
    n = n + 1
    names[n] = sub(joined, at, slash - 1)
    at = slash + 1
    slash = find(joined, '/', at, true)
  end
  if n < last and at <= #joined then
    names[n + 1] = sub(joined, at)
    at = #joined + 1
  end
  return at
end

-- Split all names joined by '/'.
local function split(joined)
  local names = {}
  split_some(joined, 1, #joined, names)
  return names
end

-- Run a command on a key with 1,000 values at a time: Lua unpacks at most 8,000. `take` gets each answer.
local function in_pieces(command, key, values, take)
  for at = 1, #values, 1000 do
    local answer = redis.call(command, key, unpack(values, at, math.min(at + 999, #values)))
    if take then take(answer) end
  end
end

-- Return the whole number in a text; `instead` if it is missing or not a whole number.
local function number_or(text, instead)
  if text and #text < 16 and string.find(text, '^%d+$') then return tonumber(text) end
  return instead
end

-- Add to a counter and return its sum. If it holds no number, restart it: `penstock verify` reports that.
local function count(key, name, by)
  local sum = redis.pcall('HINCRBY', key, name, by)
  if type(sum) == 'number' then return sum end
  redis.call('HSET', key, name, by)
  return tonumber(by)
end

-- Return the earlier answer to a token, or nil.
local function answered(key)
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and value or nil
end

-- Return a field of a claim; nil if there is none, or if the key is not a hash.
local function field(key, name)
  local value = redis.pcall('HGET', key, name)
  return type(value) == 'string' and value or nil
end

-- Return a claim's names, then these fields. Nil if the claim is unusable: its key is missing, is not a
-- hash, or has no names.
local function claim_fields(key, ...)
  local values = redis.pcall('HMGET', key, 'names', ...)
  if values.err or not values[1] or values[1] == '' then return nil end
  return values
end

-- Return the keys of a claim's two journals, each message index to entry. The first belongs to the last
-- owner that wrote any; the second holds what earlier owners confirmed and that owner has not repeated.
local function journals(key) return key .. ':journal', key .. ':earlier' end

-- Tell whether a key is a hash. Delete a key of another type: it is unusable.
local function is_hash(key)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', key) end
  return kind == 'hash'
end

-- Add the positions, from 1, of ranges that count from 0, such as `0-41,43-43`; `count` at most.
local function add_positions(to, ranges, count)
  for from, last in string.gmatch(ranges or '', '(%d+)-(%d+)') do
    for position = tonumber(from), math.min(tonumber(last), count - 1) do to[position + 1] = true end
  end
  return to
end

-- Delete a claim and its journals.
local function end_claim(claims, key, id)
  redis.call('DEL', key, journals(key))
  redis.call('ZREM', claims, id)
end

-- Delete an unusable claim. `orphans` queues its files for a retry.
local function drop(claims, counters, key, id)
  end_claim(claims, key, id)
  count(counters, 'claims_dropped', 1)
end

-- Count in the current minute. The last hour is kept, to show rates. The first count of a minute deletes
-- older minutes: once a minute, at most a few hundred fields.
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

-- Tell whether an operator's note on any file is left.
local function is_any_put_back(key) return redis.call('HLEN', key) > 0 end

-- Delete the operator's notes on files that are settled now.
local function settle_put_back(key, names)
  if not is_any_put_back(key) then return end
  in_pieces('HDEL', key, names)
end

-- Return the indexes of the names, from `first` on, that no key holds: they are waiting. Looks up 8,000 names
-- at most. An empty key costs nothing, any other one a look-up for each name that no key before it holds.
-- It asks hashes first: names that others claimed a moment ago are in the small one of files being processed.
local function waiting(hashes, sets, names, first)
  local left, indexes = {unpack(names, first)}, {}
  for i = 1, #left do indexes[i] = first - 1 + i end
  local function look(command, key)
    local values, n = redis.call(command, key, unpack(left)), 0
    for i = 1, #values do
      if not values[i] then
        n = n + 1
        left[n], indexes[n] = left[i], indexes[i]
      end
    end
    for i = #left, n + 1, -1 do left[i], indexes[i] = nil, nil end
  end
  for _, key in ipairs(hashes) do
    if #left > 0 and redis.call('HLEN', key) > 0 then look('HMGET', key) end
  end
  for _, key in ipairs(sets) do
    if #left > 0 and redis.call('ZCARD', key) > 0 then look('ZMSCORE', key) end
  end
  return indexes
end
