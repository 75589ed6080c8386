-- journal: note which messages of a claim SQS has confirmed, for its owner only.
--
-- KEYS  1 claim:ID  2 counters  3 claim:ID:journal
-- ARGV  1 token  2 message index and journal entry of each, in turn, joined by '/'; at most 1,000
--
-- Answers 1, or 0 when somebody else owns the claim or it is no more.
if field(KEYS[1], 'token') ~= ARGV[1] then
  count(KEYS[2], 'journals_refused', 1)
  return 0
end
local fields, n = {}, 0
for index, entry in string.gmatch(ARGV[2], '([^/]+)/([^/]+)') do
  fields[n + 1], fields[n + 2] = index, entry
  n = n + 2
end
is_hash(KEYS[3])
redis.call('HSET', KEYS[3], unpack(fields))
return 1
