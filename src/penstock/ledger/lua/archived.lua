-- archived: note that files have left the spool. `forget` deletes the note when no listing in use can
-- name them any more.
--
-- KEYS  1 json_files_processed  2 json_files_rejected  3 out_of_spool  4 counters
--       5 minutes  6 gone
-- ARGV  1 names, joined by '/'  2 0: the files were moved; else: they are gone, and this is how many
--         gone files are remembered
--
-- A gone file is neither in the spool nor in the archive. Returns how many were not noted before.
local at = now_ms()
local now = string.format('%.0f', at)
local names, noted, most = split(ARGV[1]), {}, tonumber(ARGV[2])
for i = 1, #names do
  noted[2 * i - 1] = now
  noted[2 * i] = names[i]
end
local processed = redis.call('ZREM', KEYS[1], unpack(names))
local rejected = redis.call('HLEN', KEYS[2]) > 0 and redis.call('HDEL', KEYS[2], unpack(names)) or 0
redis.call('ZADD', KEYS[3], unpack(noted))
if most > 0 and processed + rejected > 0 then
  redis.call('ZADD', KEYS[6], unpack(noted))
  redis.call('ZREMRANGEBYRANK', KEYS[6], 0, -1 - most)
end
local counter = most > 0 and 'files_gone' or 'files_archived'
count(KEYS[4], counter, processed)
tick(KEYS[5], at, counter, processed)
count(KEYS[4], most > 0 and 'files_rejected_gone' or 'files_rejected_moved', rejected)
return processed + rejected
