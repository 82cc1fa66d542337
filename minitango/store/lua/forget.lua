-- Delete ended jobs with all that was recorded of them (`Upkeep.forget`).
-- Writes meta j: a: r: o: jobs ids of:a: of:s: keys key: refs ended outbox cb:
-- ARGV: '1' where those go, too, whose callback is still to be delivered; the jobs. Replies: how many went.
local gone = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  local job = load(id)
  if job and ENDED[job.state] and (ARGV[1] == '1' or not call('ZSCORE', P .. 'outbox', id)) then
    call('DEL', P .. 'j:' .. id, P .. 'a:' .. id, P .. 'r:' .. id, P .. 'o:' .. id, P .. 'cb:' .. id)
    call('ZREM', P .. 'jobs', id)
    call('ZREM', P .. 'ids', id)
    call('ZREM', P .. 'of:a:' .. job.assignment, id)
    call('ZREM', P .. 'of:s:' .. job.student, id)
    call('ZREM', P .. 'ended', id)
    call('ZREM', P .. 'outbox', id)
    if job.key then
      call('ZREM', P .. 'key:' .. job.key, id)
      if call('HGET', P .. 'keys', job.key) == id then call('HDEL', P .. 'keys', job.key) end
    end
    for digest in string.gmatch(job.refs, '%S+') do
      if call('HINCRBY', P .. 'refs', digest, -1) <= 0 then call('HDEL', P .. 'refs', digest) end
    end
    count(job.state, nil)
    gone = gone + 1
  end
end
-- Jobs of which nothing but their places is left are named by nobody: those that are met among the first to have ended.
for _, id in ipairs(call('ZRANGE', P .. 'ended', 0, 499)) do
  if call('EXISTS', P .. 'j:' .. id) == 0 then
    call('DEL', P .. 'a:' .. id, P .. 'r:' .. id, P .. 'o:' .. id, P .. 'cb:' .. id)
    for _, place in ipairs({ 'ended', 'jobs', 'ids', 'outbox' }) do call('ZREM', P .. place, id) end
  end
end
if gone > 0 then tell() end
return gone
