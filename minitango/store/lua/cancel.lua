-- Cancel a job (`Queue.cancel`).
-- Writes meta j: lanes ready: alone: due solo spec: held: others cancels ended outbox cb:
-- ARGV: now, job, reason. Replies: the job as it is now; nothing where there is none.
local now = clock(ARGV[1])
local job = load(ARGV[2])
if not job then return {} end
local reason = ARGV[3] ~= '' and ARGV[3]
if job.state == 'queued' then
  write(job, { reason = reason })
  leave(job, 'cancel', 'cancelled', now, 0)
  tell()
elseif job.state == 'running' and not job.cancel_requested then
  write(job, { cancel_requested = '1', reason = reason })
  call('SADD', P .. 'cancels', job.id)
  tell()
end
return flat(job)
