-- release: give a claim back unfinished, for its owner only. It expires at once and keeps its
-- journal, so the next worker goes on where this one stopped.
--
-- KEYS  1 claims  2 claim:ID  3 call:TOKEN  4 counters
-- ARGV  1 ID  2 token  3 how long the answer to this token is remembered, ms
--
-- Answers 1, also when it is repeated; or 0 when somebody else owns the claim or it is no more.
if field(KEYS[2], 'token') ~= ARGV[2] then
  if answered(KEYS[3]) == 'released' then return 1 end
  count(KEYS[4], 'releases_refused', 1)
  return 0
end
redis.call('HSET', KEYS[2], 'token', '', 'released', 1, 'ended_ms', now_ms())
redis.call('ZADD', KEYS[1], 0, ARGV[1])
redis.call('SET', KEYS[3], 'released', 'PX', ARGV[3])
return 1
