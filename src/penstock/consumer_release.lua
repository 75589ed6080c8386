-- release: forget that a message is being handled; for its handler only.
--
-- KEYS  1 the message
-- ARGV  1 the handler's mark
--
-- Returns 1; 0 if the mark is another handler's, or missing.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
