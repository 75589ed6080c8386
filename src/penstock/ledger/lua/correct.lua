-- correct: shorten times that are further ahead than Redis's clock could set them now. The clock ran
-- ahead and was corrected; nothing may wait until the wrong time.
--
-- KEYS  1 leases  2 loaders  3 retry  4 out_of_spool  5 overlooked  6 workers  7 sweeper
--       8 loader_started  9 counters
-- ARGV  1 1 to correct, 0 to change nothing  2 most of a key
--       3… how far ahead of now a time of keys 1 to 7 can be, ms, in turn
--
-- A lease, or a loader's slot, gets the longest time allowed, because its owner may be alive. Everything
-- else is due now. Returns how many times were wrong. Safe to run twice: a corrected time is right.
local now, found = now_ms(), 0
local is_now, to_correct = string.format('%.0f', now), ARGV[1] == '1'
local times = {KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]}
for i = 1, 6 do
  local latest = string.format('%.0f', now + tonumber(ARGV[2 + i]))
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', times[i], '(' .. latest, '+inf', 'LIMIT', 0, ARGV[2])) do
    found = found + 1
    if to_correct then redis.call('ZADD', times[i], i <= 2 and latest or is_now, member) end
  end
end
local sweeper = redis.call('HMGET', KEYS[7], 'until_ms', 'pause_ms', 'token')
-- With a token, it is a sweeper's lease. Without, it is a pause, of the length in pause_ms.
local longest = ARGV[3] + 0
if (sweeper[3] or '') == '' then
  longest = math.min(math.max(number_or(sweeper[2], ARGV[9] + 0), longest), ARGV[9] + 0)
end
if number_or(sweeper[1], 0) > now + longest then
  found = found + 1
  if to_correct then redis.call('HSET', KEYS[7], 'until_ms', is_now) end
end
if number_or(redis.call('GET', KEYS[8]), 0) > now then
  found = found + 1
  if to_correct then redis.call('SET', KEYS[8], is_now) end
end
if to_correct and found > 0 then count(KEYS[9], 'times_corrected', found) end
return found
