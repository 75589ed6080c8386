-- swept: end a sweep, and start the pause before the next one.
--
-- KEYS  1 sweeper
-- ARGV  1 token of the sweeper  2 pause, ms
--
-- Returns 1; 0 if this sweeper does not hold the lease (any more), as when repeated.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'token', '', 'until_ms', now_ms() + tonumber(ARGV[2]), 'pause_ms', ARGV[2])
return 1
