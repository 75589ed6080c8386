-- now: return the ledger's time, in ms since 1970.
--
-- KEYS  1 counters, to find the right node of a cluster
return string.format('%.0f', now_ms())
