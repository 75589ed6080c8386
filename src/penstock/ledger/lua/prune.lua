-- prune: forget workers that have been silent, and names that were seen waiting and then disappeared.
-- The answers remembered for a token expire by themselves.
--
-- KEYS  1 workers  2 workers_since  3 overlooked  4 suspects  5 claims_given
-- ARGV  1 how long a worker may be silent, ms  2 how long a name is remembered as waiting, ms
--
-- Returns how many workers were forgotten.
local now = now_ms()
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[1]), 'LIMIT', 0, 1000)
if #gone > 0 then
  redis.call('ZREM', KEYS[1], unpack(gone))
  redis.call('HDEL', KEYS[2], unpack(gone))
  redis.call('HDEL', KEYS[4], unpack(gone))
  redis.call('HDEL', KEYS[5], unpack(gone))
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - tonumber(ARGV[2]))
return #gone
