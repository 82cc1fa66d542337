-- One batch of jobs, each whole (`Portable.dump`).
-- Writes nothing; reads jobs j: a: r: o: keys cb: outbox
-- ARGV: the last number that counts, then jobs. Replies: for each that is there {job, attempts, result, outputs, what
-- became of its callback, when that is due ('': it is not), '1' where it is its key's latest of those that count}; of one
-- that was not forgotten, and of which nothing is left but its place, {its id}. A key whose latest that is, nobody has.
local top = tonumber(ARGV[1])
local out = {}
for i = 2, #ARGV do
  local job = load(ARGV[i])
  if job then
    local holder = '0'
    local latest = job.key and call('HGET', P .. 'keys', job.key)
    if latest and (latest == job.id or tonumber(call('ZSCORE', P .. 'jobs', latest) or 0) > top) then holder = '1' end
    out[#out + 1] = {
      flat(job), call('HGETALL', P .. 'a:' .. job.id), call('GET', P .. 'r:' .. job.id) or '',
      call('LRANGE', P .. 'o:' .. job.id, 0, -1), call('HGETALL', P .. 'cb:' .. job.id),
      call('ZSCORE', P .. 'outbox', job.id) or '', holder,
    }
  elseif call('ZSCORE', P .. 'jobs', ARGV[i]) then
    out[#out + 1] = { ARGV[i] }
  end
end
return out
