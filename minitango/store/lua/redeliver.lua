-- Have a callback delivered anew (`Outbox.redeliver`).
-- Writes j: outbox cb:
-- ARGV: now, job. Replies: the job as it is now; nothing where there is none. Unchanged where it has no callback, or has
-- not ended.
local now = clock(ARGV[1])
local job = load(ARGV[2])
if not job then return {} end
if job.callback and ENDED[job.state] then
  local told = P .. 'cb:' .. job.id
  if call('HEXISTS', told, 'token') == 0 then
    call('ZADD', P .. 'outbox', num(now), job.id)
    call('HSET', told, 'since', num(now), 'tries', '0')
    call('HDEL', told, 'settled')
  end
  write(job, { delivery = 'pending' })
  tell()
end
return flat(job)
