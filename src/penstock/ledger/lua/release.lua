-- release: give a claim back unfinished, for its owner only. It keeps its journal: the next worker goes on
-- where this one stopped, with the same message ids. The claim expires at once; if some of its files
-- cannot be read, only after a pause.
--
-- KEYS  1 leases  2 claim:ID  3 call:TOKEN  4 counters  5 json_files_processing
--       6 json_files_processed  7 minutes  8 put_back
-- ARGV  1 ID  2 token  3 how long the answer to this token is remembered, ms
--       4 1 if this owner may have sent something  5 why the claim waits; empty: it does not
--       6 how long, ms  7 positions of the files, from 0, that become processed without the others
--       8 number of messages that a successor may send again
--
-- Returns 1, also when repeated; 0 if somebody else owns the claim or it has ended.
local claim = claim_fields(KEYS[2], 'token', 'done')
if not claim or claim[2] ~= ARGV[2] then
  if answered(KEYS[3]) == 'released' then return 1 end
  count(KEYS[4], 'releases_refused', 1)
  return 0
end
local now = now_ms()
redis.call('HSET', KEYS[2], 'token', '', 'released', 1, 'ended_ms', now, 'waits_for', ARGV[5])
if ARGV[4] == '1' then redis.call('HSET', KEYS[2], 'tried', 1) end
if ARGV[8] ~= '0' then count(KEYS[4], 'possible_repeats', ARGV[8]) end
local due = 0
if ARGV[5] ~= '' then
  due = now + tonumber(ARGV[6])
  count(KEYS[2], 'waits', 1)
  local names = split(claim[1])
  local text = claim[3] or ''
  local done, processed = add_positions({}, text, #names), 0
  for position in pairs(add_positions({}, ARGV[7], #names)) do
    local name = names[position]
    -- Keep the operator's note on a file until all files are settled: message ids depend on it.
    if not done[position] and redis.call('HEXISTS', KEYS[8], name) == 0 then
      redis.call('HDEL', KEYS[5], name)
      redis.call('ZADD', KEYS[6], now, name)
      text = string.format('%s,%d-%d', text, position - 1, position - 1)
      processed = processed + 1
    end
  end
  redis.call('HSET', KEYS[2], 'done', text, 'worker', '')
  count(KEYS[4], 'files_processed', processed)
  tick(KEYS[7], now, 'files_processed', processed)
end
redis.call('ZADD', KEYS[1], due, ARGV[1])
redis.call('SET', KEYS[3], 'released', 'PX', ARGV[3])
return 1
