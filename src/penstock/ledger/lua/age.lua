-- age: list the claims, oldest first. Changes nothing.
--
-- KEYS  1 leases
-- ARGV  1 prefix of claim keys  2 most claims
--
-- Returns, per claim: id, worker (empty: nobody), attempt, ms since it was made, ms since its lease
-- ended (negative while it runs), number of files, why it waits (empty: it does not).
local now = now_ms()
local found, answer = {}, {}
local ids = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #ids, 2 do
  local claim = claim_fields(ARGV[1] .. ids[i], 'worker', 'attempt', 'made_ms', 'token', 'ended_ms',
    'files', 'waits_for')
  if claim then
    local ended = tonumber(ids[i + 1])
    if ended == 0 then ended = math.min(number_or(claim[6], now), now) end  -- freed or released
    found[#found + 1] = {
      ids[i], claim[5] == '' and '' or claim[2] or '', number_or(claim[3], 1),
      math.max(now - number_or(claim[4], now), 0), now - ended, number_or(claim[7], 1),
      claim[8] or '',
    }
  end
end
table.sort(found, function(a, b) return a[4] > b[4] end)
for i = 1, math.min(#found, tonumber(ARGV[2])) do
  for _, value in ipairs(found[i]) do answer[#answer + 1] = value end
end
return answer
