-- expire: take expired claims from their owners, so that these owners cannot act any more.
--
-- KEYS  1 leases  2 counters  3 call:TOKEN
-- ARGV  1 prefix of claim keys  2 most claims  3 how long the answer to this token is remembered, ms
--
-- Returns a JSON array with, per claim that lost its owner: id, worker, attempt, ms since the lease
-- ended, number of files; the same when repeated. The claim stays, expired, for the next worker.
local before = answered(KEYS[3])
if before then return before end
local now = now_ms()
local found = {}
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], 1, now, 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #ids, 2 do
  local key = ARGV[1] .. ids[i]
  local claim = claim_fields(key, 'worker', 'attempt', 'files', 'token')
  if claim and claim[5] == '' then  -- it waited without an owner
    redis.call('ZADD', KEYS[1], 0, ids[i])
  elseif claim then
    redis.call('HSET', key, 'token', '', 'ended_ms', ids[i + 1])
    redis.call('ZADD', KEYS[1], 0, ids[i])
    count(KEYS[2], 'claims_expired', 1)
    found[#found + 1] = {
      ids[i], claim[2] or '', number_or(claim[3], 1), now - ids[i + 1], number_or(claim[4], 1),
    }
  else
    drop(KEYS[1], KEYS[2], key, ids[i])
  end
end
local answer = #found > 0 and cjson.encode(found) or '[]'
redis.call('SET', KEYS[3], answer, 'PX', ARGV[3])
return answer
