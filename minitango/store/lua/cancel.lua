-- Cancel a job (`Queue.cancel`).
-- Writes meta j: ready: alone: due solo spec: held: others cancels ended outbox
-- ARGV: now, job. Replies: the job as it is now; nothing where there is none.
local now = clock(ARGV[1])
local job = load(ARGV[2])
if not job then return {} end
if job.state == 'queued' then
  leave(job, 'cancel', 'cancelled', now, 0)
  tell()
elseif job.state == 'running' and not job.cancel_requested then
  write(job, { cancel_requested = '1' })
  call('SADD', P .. 'cancels', job.id)
  tell()
end
return flat(job)
