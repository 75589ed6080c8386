-- forget: delete the notes of files that left the spool longer ago than any listing lives.
--
-- KEYS  1 out_of_spool
-- ARGV  1 how long a listing may be in use, ms  2 most files
--
-- Returns how many files were forgotten.
local until_ms = now_ms() - tonumber(ARGV[1])
local names = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', until_ms, 'LIMIT', 0, ARGV[2])
if #names == 0 then return 0 end
return redis.call('ZREM', KEYS[1], unpack(names))
