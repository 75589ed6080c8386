-- swept: end a sweep; no other begins before the pause is over.
--
-- KEYS  1 sweeper
-- ARGV  1 token of the sweeper  2 pause, ms
--
-- Answers 1, or 0 when it is not this sweeper's turn (any more), as when it is repeated.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'token', '', 'until_ms', now_ms() + tonumber(ARGV[2]), 'pause_ms', ARGV[2])
return 1
