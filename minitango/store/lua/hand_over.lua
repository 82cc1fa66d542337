-- Have an ended job be another student's (`Upkeep.hand_over`).
-- Writes j: of:s: keys key:
-- ARGV: job, student, labels as JSON or nothing. Replies: whether it was there, and had ended.
local job = load(ARGV[1])
if not job or not ENDED[job.state] then return 0 end
local key = job.key
if job.student ~= ARGV[2] then
  call('ZREM', P .. 'of:s:' .. job.student, job.id)
  call('ZADD', P .. 'of:s:' .. ARGV[2], job.seq, job.id)
  if key then
    call('ZREM', P .. 'key:' .. key, job.id)
    if call('HGET', P .. 'keys', key) == job.id then call('HDEL', P .. 'keys', key) end
  end
  key = false
end
write(job, { student = ARGV[2], key = key, labels = ARGV[3] ~= '' and ARGV[3] })
tell()
return 1
