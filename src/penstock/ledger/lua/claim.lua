-- claim: give the caller an expired claim; else a new claim of the files due for a retry, and of those
-- of its candidates that are waiting.
--
-- KEYS  1 leases  2 json_files_processing  3 json_files_processed  4 out_of_spool
--       5 json_files_rejected  6 retry  7 counters  8 epoch  9 workers  10 workers_since
--       11 suspects  12 frontier  13 call:TOKEN  14 claim:NEW
--       15 put_back  16 minutes  17 spool_note  18 claims_given: worker → number of its last claim
-- ARGV  1 prefix of claim keys  2 NEW, the id if a claim is made  3 token  4 worker
--       5 fingerprint of the settings that shape messages  6 lease, ms
--       7 how long the answer to this token is remembered, ms  8 most files of a claim
--       9 most takeovers of a claim  10 cursor up to which the caller has tried every file
--       11 epoch in which it tried them  12 number of claims it has seen made
--       13 candidate names, joined by '/'
--       14 least files of a new claim  15 ignore 14 if a file has been due for this long, ms
--       16 id of the spool note under which the candidates were listed
--       17 number of the caller's last claim, as it knows
--
-- Returns {kind, epoch, number of claims made before this one, number of the caller's last claim before
-- this one, …}. The rest depends on the kind:
--   none       indexes from 1 of the candidates that are waiting, joined by commas
--   made       indexes of the examined candidates that wait unclaimed; indexes of those claimed, or
--              their number if they are the first ones; names that were due, joined by '/' (they come
--              first in the claim); number of candidates examined; then the operator's note on each
--              file that was put back
--   worn       id of an expired claim that was taken over too often: isolate it first
--   moved      nothing: the ledger's spool has changed since the listing
--   late       nothing: the claim that this token got has a new owner; ask with a new token
--   taken_over, repeat    id, attempt, fingerprint of its journal, names joined by '/', 1 if an earlier
--              owner may have sent something, how often it had to wait, positions of the processed
--              files; then the operator's note on each file that was put back
-- Safe to run twice: the same token gets the same claim.
local PIECE = 500  -- candidates examined together
local LOOK = 16  -- expired claims examined: this worker may not be allowed the first
local now = now_ms()
local prefix, new, token, worker, fingerprint = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local lease, remember, most = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
local least = tonumber(ARGV[14])

local epoch = redis.call('GET', KEYS[8])
if not epoch then
  epoch = new
  redis.call('SET', KEYS[8], epoch)
end
local made = number_or(redis.call('HGET', KEYS[7], 'claims'), 0)
local given = number_or(redis.call('HGET', KEYS[18], worker), 0)
-- If this Redis has forgotten the caller's files (all, or the last ones), keep the frontier.
if ARGV[11] ~= '' and (ARGV[11] ~= epoch or tonumber(ARGV[12]) > made or tonumber(ARGV[17]) > given) then
  count(KEYS[7], 'ledger_losses', 1)
  tick(KEYS[16], now, 'ledger_losses', 1)
elseif ARGV[10] ~= '' and ARGV[11] == epoch then
  redis.call('SET', KEYS[12], ARGV[10])
end
if redis.call('ZADD', KEYS[9], now, worker) == 1 then redis.call('HSET', KEYS[10], worker, now) end

-- Add the operator's note on each file that was put back.
local function add_said(answer, names)
  if not is_any_put_back(KEYS[15]) then return answer end
  in_pieces('HMGET', KEYS[15], names, function(values)
    for _, said in ipairs(values) do
      if said then answer[#answer + 1] = said end
    end
  end)
  return answer
end

local function whole(kind, id)
  local claim = claim_fields(prefix .. id, 'attempt', 'noted_under', 'tried', 'waits', 'done')
  local answer = {
    kind, epoch, made, given, id, number_or(claim[2], 1), claim[3] or '', claim[1], claim[4] and 1 or 0,
    number_or(claim[5], 0), claim[6] or '',
  }
  return add_said(answer, split(claim[1]))
end

local before = answered(KEYS[13])
if before then
  if field(prefix .. before, 'token') == token then return whole('repeat', before) end
  return {'late', epoch, made, given}
end

-- A worker that takes over a claim whose owner died takes no second one meanwhile. Otherwise a file that
-- kills workers would count against the claims in the worker's other lanes too.
local function has_suspect()
  local id = redis.call('HGET', KEYS[11], worker)
  if not id or field(prefix .. id, 'worker') ~= worker then return false end
  return tonumber(redis.call('ZSCORE', KEYS[1], id) or 0) > now
end

for _, expired in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, LOOK)) do
  local key = prefix .. expired
  local claim = claim_fields(key, 'released', 'attempt')
  if not claim then
    drop(KEYS[1], KEYS[7], key, expired)
  elseif not claim[2] and number_or(claim[3], 1) > tonumber(ARGV[9]) then
    return {'worn', epoch, made, given, expired}
  elseif claim[2] or not has_suspect() then
    if claim[2] then
      redis.call('HDEL', key, 'released')
    else
      redis.call('HSET', KEYS[11], worker, expired)
      redis.call('HSET', key, 'tried', 1)
      count(key, 'attempt', 1)
      count(KEYS[7], 'claims_taken_over', 1)
    end
    redis.call('HSET', key, 'token', token, 'worker', worker, 'fingerprint', fingerprint)
    redis.call('ZADD', KEYS[1], now + lease, expired)
    redis.call('SET', KEYS[13], expired, 'PX', remember)
    count(KEYS[18], worker, 1)
    return whole('taken_over', expired)
  end
end

if ARGV[13] ~= '' and ARGV[16] ~= '' and ARGV[16] ~= (redis.call('GET', KEYS[17]) or '') then
  return {'moved', epoch, made, given}
end

local due = redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', now, 'LIMIT', 0, most)
local candidates, at = {}, 1
local indexes, n = {}, 0
while n < most - #due and at <= #ARGV[13] do
  local first = #candidates + 1
  at = split_some(ARGV[13], at, PIECE, candidates)
  for _, index in ipairs(waiting({KEYS[2], KEYS[5]}, {KEYS[3], KEYS[4], KEYS[6]}, candidates, first)) do
    n = n + 1
    indexes[n] = index
  end
end
local taken = math.min(n, most - #due)
if #due > 0 and redis.call('ZSCORE', KEYS[6], due[1]) + ARGV[15] <= now then least = 1 end
if #due + taken < math.max(least, 1) then
  return {'none', epoch, made, given, table.concat(indexes, ',')}
end

local names, processing = {}, {}
for i = 1, #due do names[i] = due[i] end
for i = 1, taken do names[#due + i] = candidates[indexes[i]] end
for i = 1, #names do
  processing[2 * i - 1] = names[i]
  processing[2 * i] = new
end
in_pieces('ZREM', KEYS[6], due)
in_pieces('HSET', KEYS[2], processing)
redis.call('HSET', KEYS[14], 'names', table.concat(names, '/'), 'files', #names, 'token', token,
  'worker', worker, 'attempt', 1, 'fingerprint', fingerprint, 'made_ms', now)
redis.call('ZADD', KEYS[1], now + lease, new)
redis.call('SET', KEYS[13], new, 'PX', remember)
count(KEYS[7], 'claims', 1)
count(KEYS[18], worker, 1)
count(KEYS[7], 'files_seen', taken)
local left = table.concat(indexes, ',', taken + 1)
local answer = {'made', epoch, made, given, left, taken, table.concat(due, '/'), #candidates}
if taken > 0 and indexes[taken] ~= taken then answer[6] = table.concat(indexes, ',', 1, taken) end
return add_said(answer, due)
