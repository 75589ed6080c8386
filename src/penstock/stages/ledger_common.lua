-- In front of every script, after the clock: what more than one verb needs.

-- The ordered names of a claim: they contain no '/'.
local function split(joined)
  local names, n = {}, 0
  for name in string.gmatch(joined, '[^/]+') do
    n = n + 1
    names[n] = name
  end
  return names
end

-- The indexes, from 1, of those names in ARGV from `first` on that no key knows: they are waiting.
-- Also whether that is all of them. Each of `hashes` and `sets` costs a look-up a name, but nothing while it is empty.
local function waiting(hashes, sets, first)
  local count, known = #ARGV - first + 1, {}
  local function look(values)
    for i = 1, count do
      if values[i] then known[i] = true end
    end
  end
  for _, key in ipairs(hashes) do
    if redis.call('HLEN', key) > 0 then look(redis.call('HMGET', key, unpack(ARGV, first))) end
  end
  for _, key in ipairs(sets) do
    if redis.call('ZCARD', key) > 0 then look(redis.call('ZMSCORE', key, unpack(ARGV, first))) end
  end
  local indexes, n = {}, 0
  for i = 1, count do
    if not known[i] then
      n = n + 1
      indexes[n] = i
    end
  end
  return indexes, n == count
end
