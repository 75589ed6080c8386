-- In front of every script: the only clock of the ledger is Redis's own. A test replaces this file
-- by one whose time it sets; nothing else in the ledger knows what time it is.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
