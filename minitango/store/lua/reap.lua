-- Take running jobs back from engines that are gone (`Queue.reap`, `Queue.recover`).
-- Writes meta j: a: lanes ready: alone: due solo spec: held: others running cancels ended outbox cb:
-- ARGV: now, verb, node ('' or '=' and its name). Replies: the jobs that were taken back, as they are now.
local now, verb = clock(ARGV[1]), ARGV[2]
if verb == 'reap' and ARGV[1] == '' then
  -- Engines ask every two seconds. Where nobody did, the server stood still or was away, and nobody could extend a lease.
  local last = tonumber(call('HGET', KEYS[1], 'reaped')) or 0
  call('HSET', KEYS[1], 'reaped', num(now))
  if now < last then -- the clock was set back: leases that it gave last no longer for that
    local given = call('ZRANGE', P .. 'running', 0, -1, 'WITHSCORES')
    for i = 1, #given, 2 do
      if load(given[i]) then
        local expires = num(tonumber(given[i + 1]) - (last - now))
        call('HSET', P .. 'j:' .. given[i], 'expires', expires)
        call('ZADD', P .. 'running', expires, given[i])
      end
    end
  end
  if now - last > C.DEAF or now < last then call('HSET', KEYS[1], 'settled', num(now + C.SETTLE)) end
  if now < (tonumber(call('HGET', KEYS[1], 'settled')) or 0) then return {} end
end
local ids
if verb == 'reap' then
  ids = call('ZRANGEBYSCORE', P .. 'running', '-inf', '(' .. num(now), 'LIMIT', 0, C.PROMOTE)
else
  ids = call('ZRANGE', P .. 'running', 0, -1)
end
local jobs = {}
for _, id in ipairs(ids) do
  local job = load(id)
  if not job then -- nothing is left of it but its place
    call('ZREM', P .. 'running', id)
    call('SREM', P .. 'cancels', id)
  elseif ARGV[3] == '' or job.node == string.sub(ARGV[3], 2) then jobs[#jobs + 1] = job end
end
if #jobs == 0 then return {} end
table.sort(jobs, function(a, b) return tonumber(a.seq) < tonumber(b.seq) end)
if verb == 'recover' then
  for _, id in ipairs(call('ZRANGE', P .. 'solo', 0, -1)) do call('HDEL', P .. 'j:' .. id, 'solo_deaths') end
end
local out = {}
for i, job in ipairs(jobs) do
  interrupt(job, verb, now)
  out[i] = flat(job)
end
tell()
return out
