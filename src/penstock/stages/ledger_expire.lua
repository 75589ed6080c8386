-- expire: take expired claims from their owners, so that none of these can act any more.
--
-- KEYS  1 claims  2 counters
-- ARGV  1 prefix of claim keys  2 most claims
--
-- Answers, per claim that lost its owner: id, worker, attempt, ms since the lease ended, number of
-- files. The claim itself stays, expired, for the next worker that asks.
local now = now_ms()
local answer = {}
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], 1, now, 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #ids, 2 do
  local key = ARGV[1] .. ids[i]
  local claim = redis.call('HMGET', key, 'worker', 'attempt', 'names')
  redis.call('HSET', key, 'token', '')
  redis.call('ZADD', KEYS[1], 0, ids[i])
  redis.call('HINCRBY', KEYS[2], 'claims_expired', 1)
  local _, slashes = string.gsub(claim[3], '/', '')
  for _, value in ipairs({ids[i], claim[1], claim[2], now - ids[i + 1], slashes + 1}) do
    answer[#answer + 1] = value
  end
end
return answer
