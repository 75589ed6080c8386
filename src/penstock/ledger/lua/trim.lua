-- trim: give back the last files of a claim, which would not fill a message, before any message is sent;
-- for its owner only. They are queued for a retry, due at once.
--
-- KEYS  1 leases  2 json_files_processing  3 retry  4 counters  5 claim:ID  6 call:TOKEN
-- ARGV  1 ID  2 token  3 how many files, from the first, the claim keeps; with 0 it ends
--       4 how long the answer to this token is remembered, ms
--       5 length of the names that it keeps, joined by '/', in bytes
--
-- Returns 1, also when repeated; 0 if somebody else owns the claim, it has ended, or one of its messages
-- is in the journal.
local claim = claim_fields(KEYS[5], 'token')
if not claim or claim[2] ~= ARGV[2] or redis.call('EXISTS', journals(KEYS[5])) > 0 then
  if not claim and answered(KEYS[6]) == 'trimmed' then return 1 end
  count(KEYS[4], 'trims_refused', 1)
  return 0
end
local keep, length, now = tonumber(ARGV[3]), tonumber(ARGV[5]), string.format('%.0f', now_ms())
local given, due = split(string.sub(claim[1], keep > 0 and length + 2 or 1)), {}
for i, name in ipairs(given) do
  due[2 * i - 1], due[2 * i] = now, name
end
in_pieces('HDEL', KEYS[2], given)
in_pieces('ZADD', KEYS[3], due)
count(KEYS[4], 'files_trimmed', #given)
if keep > 0 then
  redis.call('HSET', KEYS[5], 'names', string.sub(claim[1], 1, length), 'files', keep)
else
  end_claim(KEYS[1], KEYS[5], ARGV[1])
  redis.call('SET', KEYS[6], 'trimmed', 'PX', ARGV[4])
end
return 1
