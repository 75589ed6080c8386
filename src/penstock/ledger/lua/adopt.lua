-- adopt: take over the claims of an older version of Penstock. It kept them under another key, and their
-- journals among their own fields, so that old and new workers cannot take each other's claims.
--
-- KEYS  1 claims: those of the older version  2 leases
-- ARGV  1 prefix of claim keys
--
-- Returns how many claims a worker of the older version may still hold. Takes over at most 10 a call;
-- safe to run twice.
local now = now_ms()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 10)) do
  local key = ARGV[1] .. id
  local claim = claim_fields(key)
  if claim then
    local _, earlier = journals(key)
    is_hash(earlier)  -- deletes one of another type
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
      local index = string.match(fields[i], '^[#~](%d+)$')
      if index then
        redis.call('HSET', earlier, index, fields[i + 1])
        redis.call('HDEL', key, fields[i])
      end
    end
    redis.call('HSET', key, 'token', '', 'tried', 1, 'files', #split(claim[1]))
    redis.call('ZADD', KEYS[2], 0, id)
  end
  redis.call('ZREM', KEYS[1], id)
end
return redis.call('ZCARD', KEYS[1])
