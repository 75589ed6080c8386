-- age: what claims there are, those first that were made first. Changes nothing.
--
-- KEYS  1 claims
-- ARGV  1 prefix of claim keys  2 most claims
--
-- Answers, per claim: id, worker (empty: nobody), attempt, ms since it was made, ms since its lease
-- ended (negative: it runs), number of files.
local now = now_ms()
local found, answer = {}, {}
local ids = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #ids, 2 do
  local claim = redis.call('HMGET', ARGV[1] .. ids[i], 'worker', 'attempt', 'made_ms', 'names', 'token',
    'ended_ms')
  local ended = tonumber(ids[i + 1])
  if ended == 0 then ended = tonumber(claim[6]) end  -- freed or released
  local _, slashes = string.gsub(claim[4], '/', '')
  found[#found + 1] = {
    ids[i], claim[5] == '' and '' or claim[1], tonumber(claim[2]), now - claim[3],
    now - ended, slashes + 1,
  }
end
table.sort(found, function(a, b) return a[4] > b[4] end)
for i = 1, math.min(#found, tonumber(ARGV[2])) do
  for _, value in ipairs(found[i]) do answer[#answer + 1] = value end
end
return answer
