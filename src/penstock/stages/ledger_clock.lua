-- Put in front of every other script: the only clock of the ledger is Redis's own.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The ordered names of a claim: they contain no '/'.
local function split(joined)
  local names = {}
  for name in string.gmatch(joined, '[^/]+') do names[#names + 1] = name end
  return names
end
