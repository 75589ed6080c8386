-- journal: note which messages of a claim SQS has confirmed, for its owner only.
--
-- KEYS  1 claim:ID  2 counters
-- ARGV  1 token  2 message index and journal entry of each, in turn, joined by '/'; at most 1,000
--       3 1 if the owner continues after the last message that an earlier owner noted without a gap
--
-- Returns 1; 0 if somebody else owns the claim or it has ended.
--
-- The owner's first note moves an earlier owner's entries from the journal to `earlier`. They stay there
-- until this owner makes the same message again and notes it. Only the entries of one owner together
-- show which files are complete. An owner that notes nothing leaves them.
if field(KEYS[1], 'token') ~= ARGV[1] then
  count(KEYS[2], 'journals_refused', 1)
  return 0
end
local journal, earlier = journals(KEYS[1])
local is_noted = is_hash(journal)
if field(KEYS[1], 'noted_by') ~= ARGV[1] then
  if is_noted and ARGV[3] ~= '1' then
    if is_hash(earlier) then
      in_pieces('HSET', earlier, redis.call('HGETALL', journal))
      redis.call('DEL', journal)
    else
      redis.call('RENAME', journal, earlier)
    end
  end
  redis.call('HSET', KEYS[1], 'noted_by', ARGV[1], 'noted_under', field(KEYS[1], 'fingerprint') or '')
end
local fields, n = {}, 0
for index, entry in string.gmatch(ARGV[2], '([^/]+)/([^/]+)') do
  fields[n + 1], fields[n + 2] = index, entry
  n = n + 2
end
redis.call('HSET', journal, unpack(fields))
return 1
