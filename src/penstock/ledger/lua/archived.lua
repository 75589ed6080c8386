-- archived: note that files are out of the spool. They are remembered for as long as a listing
-- that still names them may be in use, then `forget` lets go of them.
--
-- KEYS  1 json_files_processed  2 json_files_rejected  3 out_of_spool  4 counters
--       5 minutes
-- ARGV  1 names, joined by '/'
--
-- Answers how many of them were not noted before.
local at = now_ms()
local now = string.format('%.0f', at)
local names, noted = split(ARGV[1]), {}
for i = 1, #names do
  noted[2 * i - 1] = now
  noted[2 * i] = names[i]
end
local processed = redis.call('ZREM', KEYS[1], unpack(names))
local rejected = redis.call('HDEL', KEYS[2], unpack(names))
redis.call('ZADD', KEYS[3], unpack(noted))
count(KEYS[4], 'files_archived', processed)
tick(KEYS[5], at, 'files_archived', processed)
count(KEYS[4], 'files_rejected_moved', rejected)
return processed + rejected
