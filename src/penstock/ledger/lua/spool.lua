-- spool: return the identity of the ledger's spool; note another one if that is allowed.
--
-- KEYS  1 spool  2 json_files_processing  3 json_files_processed  4 json_files_rejected
--       5 out_of_spool  6 retry  7 spool_note
-- ARGV  1 identity to note, or '' to note none  2 identity that it may replace  3 id of the note, or ''
--       to keep the present one (the spool is the same)
--
-- The first identity is noted; any other is if the ledger holds no files. Returns {identity noted before,
-- how many of the keys of files exist, id of the note}. `claim` takes no file listed under another note.
local known = redis.call('GET', KEYS[1]) or ''
local held = redis.call('EXISTS', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
local note = redis.call('GET', KEYS[7]) or ''
if ARGV[1] ~= '' and (known == '' or held == 0 or known == ARGV[2]) then
  redis.call('SET', KEYS[1], ARGV[1])
  if known ~= ARGV[1] and ARGV[3] ~= '' then note = '' end
end
if note == '' and ARGV[3] ~= '' then
  note = ARGV[3]
  redis.call('SET', KEYS[7], note)
end
return {known, held, note}
