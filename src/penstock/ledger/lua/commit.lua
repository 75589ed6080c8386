-- commit: make the files of a claim processed or rejected, for its owner only.
--
-- KEYS  1 leases  2 json_files_processing  3 json_files_processed  4 json_files_rejected
--       5 retry  6 counters  7 claim:ID  8 call:TOKEN  9 minutes  10 put_back
-- ARGV  1 ID  2 token  3 how long the answer to this token is remembered, ms
--       4 number of vanished files, then their names
--       then the number of rejected files, then name and JSON of each
--       then the number of files to retry, then name and delay in ms of each
--       then counter names and what to add, in turn
--
-- All other files of the claim become processed. Returns 1, also when repeated; 0 if somebody else owns
-- the claim or it has ended.
local token = ARGV[2]
local claim = claim_fields(KEYS[7], 'token', 'done')
if not claim or claim[2] ~= token then
  if answered(KEYS[8]) == 'committed' then return 1 end
  count(KEYS[6], 'commits_refused', 1)
  return 0
end
local now = now_ms()
local names = split(claim[1])
local other, again, at = {}, {}, 4
if claim[3] then  -- a release made some processed; they may have left the spool
  local done, left = add_positions({}, claim[3], #names), {}
  for i = 1, #names do
    if not done[i] then left[#left + 1] = names[i] end
  end
  names = left
end
for _ = 1, tonumber(ARGV[at]) do
  at = at + 1
  other[ARGV[at]] = true
end
at = at + 1
for _ = 1, tonumber(ARGV[at]) do
  other[ARGV[at + 1]] = true
  redis.call('HSET', KEYS[4], ARGV[at + 1], ARGV[at + 2])
  at = at + 2
end
at = at + 1
for _ = 1, tonumber(ARGV[at]) do
  other[ARGV[at + 1]] = true
  again[ARGV[at + 1]] = true
  redis.call('ZADD', KEYS[5], now + tonumber(ARGV[at + 2]), ARGV[at + 1])
  at = at + 2
end
local shown = {
  files_processed = true, files_rejected = true, records_sent = true, messages = true,
  bytes_sent = true, bytes_room = true, requests_billed = true,
}
for i = at + 1, #ARGV, 2 do
  count(KEYS[6], ARGV[i], ARGV[i + 1])
  if shown[ARGV[i]] then tick(KEYS[9], now, ARGV[i], ARGV[i + 1]) end
end

local processed, n = {}, 0
local score = string.format('%.0f', now)  -- format once, or Redis formats the number for each name
for i = 1, #names do
  if not other[names[i]] then
    processed[n + 1], processed[n + 2] = score, names[i]
    n = n + 2
  end
end
in_pieces('ZADD', KEYS[3], processed)
if is_any_put_back(KEYS[10]) then
  local over = {}
  for i = 1, #names do
    if not again[names[i]] then over[#over + 1] = names[i] end
  end
  settle_put_back(KEYS[10], over)
end
in_pieces('HDEL', KEYS[2], names)
end_claim(KEYS[1], KEYS[7], ARGV[1])
redis.call('SET', KEYS[8], 'committed', 'PX', ARGV[3])
return 1
