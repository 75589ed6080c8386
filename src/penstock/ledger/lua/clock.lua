-- Put before every script. The ledger's only clock is Redis's. Tests replace this file to set the time.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
