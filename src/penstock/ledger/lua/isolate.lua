-- isolate: split an expired claim that was taken over too often, so that the file that kills its workers
-- harms no other. Files whose every message is confirmed become processed. The others go into smaller
-- claims. If two more workers die with one of these, it is split into claims of one file. A claim of one
-- file ends with the file's rejection.
--
-- KEYS  1 leases  2 json_files_processing  3 json_files_processed  4 json_files_rejected
--       5 counters  6 claim:ID  7 call:ID  8 put_back
-- ARGV  1 ID  2 prefix of claim keys  3 most takeovers of a claim
--       4 the time for the reason of a reject, ISO 8601
--       5 how long the answer is remembered, ms  6 most files of a claim that is split into single ones
--
-- Returns a JSON array: numbers of files processed, rejected, and now in other claims. It returns the
-- same when repeated, and [0,0,0] if there is nothing left to split.
--
-- A journal entry is `MESSAGE_ID FILES`. FILES are the positions, from 0, of the files that are complete
-- once this message and all before it are confirmed, as ranges: `0-41,43-43`. Only the entries of the
-- last owner that wrote any count: an earlier owner may have made other messages.
local before = answered(KEYS[7])
if before then return before end
local now = now_ms()
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) > now then return '[0,0,0]' end
local claim = claim_fields(KEYS[6], 'attempt', 'released', 'fingerprint', 'done')
if not claim then
  drop(KEYS[1], KEYS[5], KEYS[6], ARGV[1])
  return '[0,0,0]'
end
local names = split(claim[1])
local attempt = number_or(claim[2], 1)
if claim[3] or attempt <= tonumber(ARGV[3]) then return '[0,0,0]' end

local journal, earlier = journals(KEYS[6])
local done, complete, confirmed = add_positions({}, claim[5], #names), {}, 0
while is_hash(journal) do
  local entry = redis.call('HGET', journal, confirmed)
  if not entry then break end
  confirmed = confirmed + 1
  add_positions(complete, string.match(entry, '^%S+ (%S*)'), #names)
end

local processed, rejected, apart, over = 0, 0, 0, {}
-- Do not give each file a claim at once: thousands of good files would travel in messages of their own.
local function part(id, names, attempt)
  redis.call('HSET', ARGV[2] .. id, 'names', table.concat(names, '/'), 'files', #names, 'token', '',
    'worker', '', 'attempt', attempt, 'released', 1, 'fingerprint', claim[4] or '', 'made_ms', now,
    'ended_ms', now)
  redis.call('ZADD', KEYS[1], 0, id)
  for i = 1, #names do redis.call('HSET', KEYS[2], names[i], id) end
  apart = apart + #names
end
local open = {}
for i = 1, #names do
  local name = names[i]
  if done[i] then  -- already processed
  elseif complete[i] then
    redis.call('ZADD', KEYS[3], now, name)
    redis.call('HDEL', KEYS[2], name)
    over[#over + 1] = name
    processed = processed + 1
  elseif #names == 1 then
    redis.call('HSET', KEYS[4], name, '{"file":' .. cjson.encode(name) .. ',"reason":"its worker died '
      .. attempt .. ' times","records":[],"records_rejected":0,"attempt":' .. attempt
      .. ',"rejected_at":' .. cjson.encode(ARGV[4]) .. '}')
    redis.call('HDEL', KEYS[2], name)
    over[#over + 1] = name
    rejected = rejected + 1
  else
    open[#open + 1] = i
  end
end
local few = tonumber(ARGV[6])
local size = #names > few and few or 1
for at = 1, #open, size do
  local some = {}
  for i = at, math.min(at + size - 1, #open) do some[#some + 1] = names[open[i]] end
  part(ARGV[1] .. '.' .. open[at], some, size > 1 and tonumber(ARGV[3]) or 1)
end
settle_put_back(KEYS[8], over)
-- A message that also holds records of an incomplete file is sent again, packed differently. Count at
-- least these: messages after a gap, and one that ends within a file.
local noted = is_hash(journal) and redis.call('HLEN', journal) or 0
if is_hash(earlier) then noted = noted + redis.call('HLEN', earlier) end
end_claim(KEYS[1], KEYS[6], ARGV[1])
count(KEYS[5], 'claims_isolated', 1)
count(KEYS[5], 'files_processed', processed)
count(KEYS[5], 'files_rejected', rejected)
if apart + rejected > 0 then count(KEYS[5], 'messages_split', noted) end
local answer = '[' .. processed .. ',' .. rejected .. ',' .. apart .. ']'
redis.call('SET', KEYS[7], answer, 'PX', ARGV[5])
return answer
