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

-- Count in the minute that runs. The minutes of the last hour are kept, for whoever shows the rate;
-- the first count of a minute lets go of those before: once a minute, at most a few hundred fields.
local function tick(key, now, name, by)
  by = tonumber(by)
  if by == 0 then return end
  local minute = math.floor(now / 60000)
  if redis.call('HINCRBY', key, string.format('%.0f %s', minute, name), by) > by then return end
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if tonumber(string.match(field, '^%d+')) < minute - 60 then redis.call('HDEL', key, field) end
  end
end

-- Whether an operator said anything of any file that is not settled yet.
local function is_any_put_back(key) return redis.call('HLEN', key) > 0 end

-- Let go of what an operator said of files that are settled now.
local function settle_put_back(key, names)
  if #names > 0 and is_any_put_back(key) then redis.call('HDEL', key, unpack(names)) end
end

-- The indexes, from 1, of those names that no key knows: they are waiting. Also whether that is all
-- of them. Each of `hashes` and `sets` costs a look-up a name, but nothing while it is empty.
local function waiting(hashes, sets, names)
  local count, known, any = #names, {}, false
  local function look(values)
    for i = 1, count do
      if values[i] then known[i], any = true, true end
    end
  end
  for _, key in ipairs(hashes) do
    if redis.call('HLEN', key) > 0 then look(redis.call('HMGET', key, unpack(names))) end
  end
  for _, key in ipairs(sets) do
    if redis.call('ZCARD', key) > 0 then look(redis.call('ZMSCORE', key, unpack(names))) end
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
