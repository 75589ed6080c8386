-- hold: queue files for a retry that an operator is about to move back into the spool. Nobody claims
-- them until the operator is done (put_back), or the hold ends. After that a worker claims them even if
-- they are missing.
--
-- KEYS  1 json_files_processing  2 json_files_processed  3 out_of_spool  4 json_files_rejected
--       5 retry  6 put_back  7 counters
-- ARGV  1 how long the hold lasts, ms  2 how long ago a file must have left the spool, ms, so that no
--         archiver is still moving it
--       3… name, and the operator's note on it (JSON that names the operator's token), in turn
--
-- Returns, per file: `held`, also when repeated; or the state that forbids it: `processing`, `processed`,
-- `rejected`, `retry`, or `leaving MS`, how long until it may be put back.
local now = now_ms()
local answer = {}
for i = 3, #ARGV, 2 do
  local name, said = ARGV[i], ARGV[i + 1]
  local left = tonumber(redis.call('ZSCORE', KEYS[3], name) or 0)
  local word = 'held'
  if redis.call('HGET', KEYS[6], name) == said then
    word = 'held'
  elseif redis.call('HEXISTS', KEYS[1], name) == 1 then word = 'processing'
  elseif redis.call('ZSCORE', KEYS[2], name) then word = 'processed'
  elseif redis.call('HEXISTS', KEYS[4], name) == 1 then word = 'rejected'
  elseif redis.call('ZSCORE', KEYS[5], name) then word = 'retry'
  elseif left + tonumber(ARGV[2]) > now then
    word = string.format('leaving %.0f', left + tonumber(ARGV[2]) - now)
  else
    redis.call('ZREM', KEYS[3], name)
    redis.call('ZADD', KEYS[5], now + tonumber(ARGV[1]), name)
    redis.call('HSET', KEYS[6], name, said)
    count(KEYS[7], 'files_seen', 1)
    count(KEYS[7], 'files_put_back', 1)
  end
  answer[#answer + 1] = word
end
return answer
