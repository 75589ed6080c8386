-- correct: shorten times that are further ahead than Redis's clock could set them now. The clock ran
-- ahead and was corrected; nothing may wait until the wrong time, or tell it.
--
-- KEYS  1 leases  2 claims: of version 0.1  3 loaders  4 retry  5 out_of_spool  6 overlooked  7 workers
--       8 json_files_processed  9 gone  10 sweeper  11 loader_started  12 counters  13 workers_since
--       14 troubles
-- ARGV  1 1 to correct, 0 to change nothing  2 most of a key  3 prefix of claim keys
--       4 how far ahead of now a lease can be, ms; the same of  5 loaders  6 retry  7 a sweep
--
-- A lease, or a loader's slot, gets the longest time allowed, because its owner may be alive. Everything
-- else is due now, or was now. Returns how many times were wrong. Safe to run twice: a corrected time is
-- right.
local now, found = now_ms(), 0
local is_now, to_correct = string.format('%.0f', now), ARGV[1] == '1'

local function wrong(...)
  found = found + 1
  if to_correct then redis.call(...) end
end

local function is_ahead(text) return (tonumber(text) or 0) > now end

local sets = {KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]}
local longest = {ARGV[4], ARGV[4], ARGV[5], ARGV[6]}
for i = 1, #sets do
  local latest = string.format('%.0f', now + tonumber(longest[i] or 0))
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', sets[i], '(' .. latest, '+inf', 'LIMIT', 0, ARGV[2])) do
    wrong('ZADD', sets[i], i <= 3 and latest or is_now, member)
  end
end
for i = 1, 2 do
  for _, id in ipairs(redis.call('ZRANGE', sets[i], 0, ARGV[2] - 1)) do
    local key = ARGV[3] .. id
    for _, name in ipairs({'made_ms', 'ended_ms'}) do
      if is_ahead(field(key, name)) then wrong('HSET', key, name, is_now) end
    end
  end
end
for _, key in ipairs({KEYS[13], KEYS[14]}) do
  local told = redis.call('HGETALL', key)
  for i = 1, #told, 2 do
    local at, rest = string.match(told[i + 1], '^(%d+)(.*)$')
    if is_ahead(at) then wrong('HSET', key, told[i], is_now .. rest) end
  end
end
local sweeper = redis.call('HMGET', KEYS[10], 'until_ms', 'pause_ms', 'token')
-- With a token, it is a sweeper's lease. Without, it is a pause, of the length in pause_ms.
local lasts = ARGV[4] + 0
if (sweeper[3] or '') == '' then
  lasts = math.min(math.max(number_or(sweeper[2], ARGV[7] + 0), lasts), ARGV[7] + 0)
end
if number_or(sweeper[1], 0) > now + lasts then wrong('HSET', KEYS[10], 'until_ms', is_now) end
if number_or(redis.call('GET', KEYS[11]), 0) > now then wrong('SET', KEYS[11], is_now) end
if to_correct and found > 0 then count(KEYS[12], 'times_corrected', found) end
return found
