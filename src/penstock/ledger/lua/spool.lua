-- spool: which directory the files of the ledger lie in; note another one where that may be.
--
-- KEYS  1 spool  2 json_files_processing  3 json_files_processed  4 json_files_rejected
--       5 out_of_spool  6 retry  7 spool_note
-- ARGV  1 identity to note, or '' to note none  2 identity that it may replace  3 id of the note, or ''
--       to keep the one there is, as for the same spool
--
-- The first identity is noted, and any while the ledger holds no files. Answers {identity noted
-- before, how many of the keys of files there are, id of the note}; `claim` takes no file that was
-- listed under another note.
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
