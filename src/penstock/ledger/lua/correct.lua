-- correct: bring back what lies later than it could if it were written now. Redis's clock was ahead
-- then, and was put right; nothing may wait for the time it told.
--
-- KEYS  1 leases  2 loaders  3 retry  4 out_of_spool  5 overlooked  6 workers  7 sweeper
--       8 loader_started  9 counters
-- ARGV  1 1 to correct, 0 to change nothing  2 most of a key
--       3… how long after now a time of keys 1 to 7 can lie, ms, in turn
--
-- A lease, and a loader's place, then end as late as they can: their owner may live. All else is due
-- now. Answers how many times were so. Safe to run twice: what is corrected is in order.
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
-- With a token it is a sweeper's lease; else a pause, whose own length is beside it.
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
