-- renew: extend the lease of a claim, for its owner only.
--
-- KEYS  1 leases  2 claim:ID  3 counters
-- ARGV  1 ID  2 token  3 lease, ms
--
-- Returns 1; 0 if somebody else owns the claim or it has ended.
if field(KEYS[2], 'token') ~= ARGV[2] then
  count(KEYS[3], 'renewals_refused', 1)
  return 0
end
redis.call('ZADD', KEYS[1], now_ms() + tonumber(ARGV[3]), ARGV[1])
return 1
