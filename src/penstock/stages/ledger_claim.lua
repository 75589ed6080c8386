-- claim: give the caller an expired claim, else the files whose retry is due, else those of its
-- candidates that are waiting.
--
-- KEYS  1 claims  2 json_files_processing  3 json_files_processed  4 out_of_spool
--       5 json_files_rejected  6 retry  7 counters  8 epoch  9 call:TOKEN  10 claim:NEW
-- ARGV  1 prefix of claim keys  2 NEW, the id if a claim is made  3 token  4 worker
--       5 lease, ms  6 how long the answer to this token is remembered, ms
--       7 most files of a claim  8… candidate names
--
-- Answers {kind, epoch} for 'none'; {kind, epoch} for 'all' (every candidate);
-- {kind, epoch, indexes} for 'some' (from 1, joined by commas); and
-- {kind, epoch, id, attempt, names joined by '/', journal…} for 'retry', 'taken_over' and 'repeat'.
-- Safe to run twice: the same token gets the claim that it got before.
local now = now_ms()
local prefix, new, token, worker = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local lease, remember, most = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])

local epoch = redis.call('GET', KEYS[8])
if not epoch then
  epoch = new
  redis.call('SET', KEYS[8], epoch)
end

local function whole(kind, id)
  local answer = {kind, epoch, id}
  local fields = redis.call('HGETALL', prefix .. id)
  local rest = {}
  for i = 1, #fields, 2 do
    local field, value = fields[i], fields[i + 1]
    if field == 'attempt' then answer[4] = value
    elseif field == 'names' then answer[5] = value
    elseif string.sub(field, 1, 1) == '#' then
      rest[#rest + 1] = string.sub(field, 2)
      rest[#rest + 1] = value
    end
  end
  for i = 1, #rest do answer[5 + i] = rest[i] end
  return answer
end

local before = redis.call('GET', KEYS[9])
if before and redis.call('HGET', prefix .. before, 'token') == token then
  return whole('repeat', before)
end

local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)[1]
if expired then
  local key = prefix .. expired
  if redis.call('HDEL', key, 'released') == 0 then
    redis.call('HINCRBY', key, 'attempt', 1)
    redis.call('HINCRBY', KEYS[7], 'claims_taken_over', 1)
  end
  redis.call('HSET', key, 'token', token, 'worker', worker)
  redis.call('ZADD', KEYS[1], now + lease, expired)
  redis.call('SET', KEYS[9], expired, 'PX', remember)
  return whole('taken_over', expired)
end

local function make(names)
  local processing = {}
  for i = 1, #names do
    processing[2 * i - 1] = names[i]
    processing[2 * i] = new
  end
  redis.call('HSET', KEYS[2], unpack(processing))
  redis.call('HSET', KEYS[10], 'names', table.concat(names, '/'), 'token', token,
    'worker', worker, 'attempt', 1, 'made_ms', now)
  redis.call('ZADD', KEYS[1], now + lease, new)
  redis.call('SET', KEYS[9], new, 'PX', remember)
end

local due = redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', now, 'LIMIT', 0, most)
if #due > 0 then
  redis.call('ZREM', KEYS[6], unpack(due))
  make(due)
  return whole('retry', new)
end

if #ARGV < 8 then return {'none', epoch} end
local names = {}
for i = 8, #ARGV do names[i - 7] = ARGV[i] end
local processing = redis.call('HMGET', KEYS[2], unpack(names))
local processed = redis.call('ZMSCORE', KEYS[3], unpack(names))
local gone = redis.call('ZMSCORE', KEYS[4], unpack(names))
local rejected = redis.call('HMGET', KEYS[5], unpack(names))
local retry = redis.call('ZMSCORE', KEYS[6], unpack(names))
local waiting, indexes = {}, {}
for i = 1, #names do
  if not (processing[i] or processed[i] or gone[i] or rejected[i] or retry[i]) then
    waiting[#waiting + 1] = names[i]
    indexes[#indexes + 1] = i
  end
end
if #waiting == 0 then return {'none', epoch} end
make(waiting)
if #waiting == #names then return {'all', epoch} end
return {'some', epoch, table.concat(indexes, ',')}
