-- sweep: queue for a retry the waiting files that no worker's listing returns any more: names that
-- appeared out of order, or that a Redis restored from a snapshot forgot.
--
-- KEYS  1 sweeper  2 overlooked  3 retry  4 counters  5 json_files_processing
--       6 json_files_processed  7 out_of_spool  8 json_files_rejected  9 spool_note
-- ARGV  1 token of the sweeper  2 its lease, ms  3 how long a file waits before it is overlooked, ms
--       4 most names remembered as waiting  5 names, joined by '/'
--       6 id of the spool note under which they were listed, or ''
--
-- There is one sweeper at a time: returns -1 if another one holds the lease, or if the ledger's spool has
-- changed since the listing; else how many names were queued. A name is queued when it is still waiting
-- after time 3, so that workers get a new file first.
local now = now_ms()
local sweeper = redis.call('HMGET', KEYS[1], 'token', 'until_ms')
if sweeper[1] and sweeper[1] ~= ARGV[1] and number_or(sweeper[2], 0) > now then return -1 end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'until_ms', now + tonumber(ARGV[2]))
if ARGV[5] == '' then return 0 end
if ARGV[6] ~= '' and ARGV[6] ~= (redis.call('GET', KEYS[9]) or '') then return -1 end
local names, is_waiting = split(ARGV[5]), {}
for _, index in ipairs(waiting({KEYS[5], KEYS[8]}, {KEYS[6], KEYS[7], KEYS[3]}, names, 1)) do
  is_waiting[index] = true
end
local since = redis.call('ZMSCORE', KEYS[2], unpack(names))
local room = tonumber(ARGV[4]) - redis.call('ZCARD', KEYS[2])
local swept = 0
for i, name in ipairs(names) do
  if since[i] and not is_waiting[i] then
    redis.call('ZREM', KEYS[2], name)
  elseif since[i] and tonumber(since[i]) + tonumber(ARGV[3]) <= now then
    redis.call('ZREM', KEYS[2], name)
    redis.call('ZADD', KEYS[3], now, name)
    swept = swept + 1
  elseif is_waiting[i] and not since[i] and room > 0 then
    redis.call('ZADD', KEYS[2], now, name)
    room = room - 1
  end
end
if swept > 0 then
  count(KEYS[4], 'files_swept', swept)
  count(KEYS[4], 'files_seen', swept)
end
return swept
