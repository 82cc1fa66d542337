-- Record what became of attempts, and claim (`Queue.exchange`).
-- Writes meta j: a: r: o: keys key: lanes ready: alone: due solo spec: held: others waves running cancels ended outbox cb: last:
-- Reads b:
-- ARGV: now, client, request, claim, which (solo, trial, or empty), node, lease_for, bring, and msgpack of {capabilities}, {`claim` new tokens},
-- {for each ack: kind, job, attempt, token, and what `settle` reads}, then what steps printed: bytes are not for msgpack.
-- `bring`: bytes of a hand-in's blob that is to come with its lease, if it has no more.
-- Replies: msgpack of {numbers of refused acks}, {settled jobs, as maps}, {leases, each 12 values}, and beside it
-- {the blob of each lease, or empty} and 1 where `waves` are left, which are not there where it is the answer to what was
-- asked before. Packed, since it is many small texts: to read them one by one costs a client more than all else.
local now = clock(ARGV[1])
local slot, request = P .. 'last:' .. ARGV[2], ARGV[3]
if call('HGET', slot, 'request') == request then
  call('EXPIRE', slot, C.REPLY_KEPT) -- a write, for what waits until replicas have the last one of its connection
  return { call('HGET', slot, 'reply') }
end
local wanted, which, node, lease_for, bring = tonumber(ARGV[4]), ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local solo = which == 'solo'
local capabilities, tokens, said = unpack(cmsgpack.unpack(ARGV[9]))
local at, printed = 1, 9
local function take()
  at = at + 1
  return said[at - 1]
end
local function take_printed()
  printed = printed + 1
  return ARGV[printed]
end
local offered = {}
for _, capability in ipairs(capabilities) do offered[capability] = true end

-- Whether a job was graded that was claimed since `since` and ended after number `mark`: of this assignment, where it is
-- about its image.
local function graded(job, reach, mark, since)
  flush()
  local from = '(' .. mark
  while true do
    local ids = call('ZRANGEBYSCORE', P .. 'ended', from, '+inf', 'WITHSCORES', 'LIMIT', 0, 100)
    if #ids == 0 then return false end
    for i = 1, #ids, 2 do
      local j = read(ids[i], 'state', 'started', 'spec', 'ended_seq')
      local started = is_real(j[2] or '') and tonumber(j[2])
      if j[1] == 'done' and started and started >= since and (reach ~= 'image' or j[3] == job.spec) then return true end
      if not j[1] and not j[4] then call('ZREM', P .. 'ended', ids[i]) end -- nothing is left of it
      from = '(' .. ids[i + 1]
    end
  end
end

-- The job, if it is queued and held.
local function is_held(job) return job and job.state == 'queued' and tonumber(job.held or 0) > 0 and job end

-- Whether others are held for want of any sandbox.
local function others_wait()
  while true do
    local id = call('SRANDMEMBER', P .. 'others')
    if not id or is_held(load(id)) then return id and true end
    call('SREM', P .. 'others', id)
  end
end

-- Count an uncharged failure, and have those wait that it concerns: `_holds.hold` and `retry.after_hold`.
-- Returns state, delay, charged.
local function hold(job, reach)
  local together = reach ~= 'sandbox'
  local h = { times = tonumber(job.held or 0), since = job.held_since, alone = job.held_alone == '1', at = job.held_at, mark = job.held_mark }
  local joins
  local mate
  while together and not mate do
    local mate_id = call('ZREVRANGE', P .. 'held:' .. job.spec, 0, 0)[1]
    if not mate_id then break end
    mate = is_held(load(mate_id))
    if not mate then call('ZREM', P .. 'held:' .. job.spec, mate_id) end -- nothing is left of it, or of that it is held
  end
  if mate then
    local due = tonumber(mate.due)
    if job.started and tonumber(mate.held_at) >= tonumber(job.started) and due and due > now then joins = due end
    if joins or tonumber(mate.held) > h.times then
      h = { times = tonumber(mate.held), since = mate.held_since, alone = mate.held_alone == '1', at = mate.held_at, mark = mate.held_mark }
    end
  end
  if not joins then
    h.alone = h.alone or (h.times > 0 and graded(job, reach, h.mark, tonumber(h.at)))
    if h.times == 0 then h.since = num(now) end
    h.times, h.at, h.mark = h.times + 1, num(now), last_ended()
  end
  local row = {
    held = tostring(h.times), held_since = h.since, held_alone = h.alone and '1' or false, held_at = h.at, held_mark = h.mark,
    late = tostring(math.max(0, h.times - C.LATE_AFTER + 1)),
  }
  write(job, row)
  local others = not together and h.alone and others_wait()
  local delay = backoff(h.times, C.HOLD_BASE, together and C.MOST_BACKOFF - C.APART or C.MOST_BACKOFF)
  local state, charged = 'queued', 0
  if h.alone and h.times > C.MAX_HELD and now - tonumber(h.since) > C.HELD_FOR and not others then
    charged = 1
    if tonumber(job.failures or 0) + 1 >= C.MAX_ATTEMPTS then state = 'dead' end
  end
  if joins then
    delay = joins - now
  elseif together then
    set_out('hold:' .. job.spec, { key = 'spec:' .. job.spec, held_at = h.at, row = row, due = now + delay + C.APART })
  end
  return state, delay, charged
end

-- A running job was graded: those that waited with it are due.
local function release_mates(job)
  if tonumber(job.held or 0) == 0 then return end
  local packed = call('HGET', P .. 'waves', 'hold:' .. job.spec)
  if packed and cmsgpack.unpack(packed).held_at == job.held_at then call('HDEL', P .. 'waves', 'hold:' .. job.spec) end
  set_out('free:' .. job.held_at .. job.spec, { key = 'held:' .. job.spec, held_at = job.held_at, due = now })
end

-- Give a job the key of the work that was done, where that is other than what was submitted. A key is its latest job's.
local function rekey(job, new)
  local old = job.key
  if not old or old == new then return end
  write(job, { key = new })
  call('ZREM', P .. 'key:' .. old, job.id)
  if call('HGET', P .. 'keys', old) == job.id then
    local heir = call('ZREVRANGE', P .. 'key:' .. old, 0, 0)[1]
    if heir then call('HSET', P .. 'keys', old, heir) else call('HDEL', P .. 'keys', old) end
  end
  local holder = call('HGET', P .. 'keys', new)
  local other = holder and load(holder)
  local before = other and other.seq
  if not before then holder = nil end -- nothing is left of it
  if holder and call('EXISTS', P .. 'key:' .. new) == 0 then call('ZADD', P .. 'key:' .. new, before, holder) end
  if holder or call('EXISTS', P .. 'key:' .. new) == 1 then call('ZADD', P .. 'key:' .. new, job.seq, job.id) end
  if not holder or tonumber(before) < tonumber(job.seq) then call('HSET', P .. 'keys', new, job.id) end
end

local function settle(kind, job)
  if kind == 'finish' then
    local result, key = take(), take()
    local changes = { failure = false, failure_id = false, reach = false }
    for _, field in ipairs({ 'outcome', 'score', 'max_score', 'trust', 'reason', 'wall', 'warnings' }) do
      local value = take()
      changes[field] = value ~= '' and value
    end
    local outputs = {}
    for i = 1, tonumber(take()) * 4, 4 do
      outputs[i], outputs[i + 1], outputs[i + 2], outputs[i + 3] = take(), take_printed(), take_printed(), take()
    end
    if not job then return end
    release_mates(job)
    call('SET', P .. 'r:' .. job.id, result)
    for i = 1, #outputs, 4 do call('RPUSH', P .. 'o:' .. job.id, outputs[i], outputs[i + 1], outputs[i + 2], outputs[i + 3]) end
    if key ~= '' then rekey(job, key) end
    return leave(job, 'finish', 'done', now, 0, nil, changes)
  end
  if kind == 'fail' then
    local retry, charge, failure, id, reach = take() == '1', take() == '1', take(), take(), take()
    if not job then return end
    if job.cancel_requested then return leave(job, 'cancelled', 'cancelled', now, 0, failure) end
    local state, delay, charged
    if charge then
      if tonumber(job.held or 0) > 0 then write(job, { held = false, held_alone = false, late = false }) end
      local failures = tonumber(job.failures or 0) + 1
      local over = not retry or failures >= C.MAX_ATTEMPTS
      state, delay, charged = over and 'dead' or 'queued', over and 0 or backoff(failures, 1, C.MOST_BACKOFF), 1
    else
      state, delay, charged = hold(job, reach)
    end
    return leave(job, 'fail', state, now, delay, failure, {
      failures = tostring(tonumber(job.failures or 0) + charged), failure = failure, failure_id = id, reach = reach,
    })
  end
  if not job then return end
  if kind == 'cancelled' or job.cancel_requested then return leave(job, 'cancelled', 'cancelled', now, 0) end
  leave(job, 'release', 'queued', now, 0)
end

local refused, settled, number = {}, {}, 0
while at <= #said do
  local kind, id, attempt, token = take(), take(), take(), take()
  local job = current(id, attempt, token)
  settle(kind, job)
  if job then settled[#settled + 1] = job else refused[#refused + 1] = number end
  number = number + 1
  if is_set_out then -- now, as what the next one has queued is not to be held or freed by it
    surge()
    is_set_out = false
  end
end

local more = surge()

-- Those whose time has come are ready; so are those whose due time a clock gave that was set back since.
local function promote(low, high)
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'due', low, high, 'LIMIT', 0, C.PROMOTE)) do
    call('ZREM', P .. 'due', id)
    local got = read(id, 'order', 'lane', 'late', 'interruptions', 'state')
    local j = { id = id, order = got[1], lane = got[2], late = got[3] or nil, interruptions = got[4] or nil, state = got[5] }
    if not j.lane or not is_order(j.order or '') or not is_natural(j.late or '0') or not is_natural(j.interruptions or '0')
      or not STATES[j.state or ''] then
      j = load(id) or {}
    end
    if j.state == 'queued' then -- else nothing is left of it
      call('HDEL', P .. 'j:' .. id, 'due')
      j.due = nil
      stock(j)
    end
  end
end

local leases = {}
if wanted > 0 and call('SISMEMBER', P .. 'drain', node) == 0 then
  promote('-inf', num(now))
  promote('(' .. num(now + C.MOST_BACKOFF + 1), '+inf')
  local lanes = {}
  for _, lane in ipairs(call('SMEMBERS', P .. 'lanes')) do
    local served = true
    for need in string.gmatch(lane, '[^,]+') do served = served and offered[need] end
    if served then lanes[#lanes + 1] = lane end
  end
  local places, lane_of = {}, {}
  local function look(most, unheld)
    for _, lane in ipairs(lanes) do
      local found = call('ZRANGE', P .. (solo and 'alone:' or 'ready:') .. lane, 0, most - 1)
      if #found == 0 then thinned[lane] = true end
      for _, member in ipairs(found) do
        local held = unheld and read(string.sub(member, C.ID_AT), 'held')[1]
        if tonumber(held or 0) == 0 then
          places[#places + 1] = member
          lane_of[member] = lane
        end
      end
    end
  end
  if which == 'trial' then look(C.TRIAL_AMONG, true) end
  if #places == 0 then look(wanted, false) end
  table.sort(places)
  local jobs, met = {}, {}
  for i = 1, math.min(#places, solo and 1 or wanted) do
    local id, lane = string.sub(places[i], C.ID_AT), lane_of[places[i]]
    local job = load(id)
    local waits = job and job.state == 'queued' and not met[id]
    if waits and more ~= 0 and caught(job) then
      waits = false
    elseif waits then
      if mended[job] and mended[job].lane == false then job.lane = lane end
      jobs[#jobs + 1] = job
    end
    met[id] = true
    -- By what was found: where nothing is left of a job but that, or its record has another place, it is not to be met again.
    later('ZREM', P .. (solo and 'alone:' or 'ready:') .. lane, places[i])
    thinned[lane] = true
  end
  if solo and #jobs == 0 then -- who is listed there is waited for by all others
    for _, id in ipairs(call('ZRANGE', P .. 'solo', 0, 99)) do
      local job = load(id)
      if not job or job.state ~= 'queued' or not is_solo(job) then
        call('ZREM', P .. 'solo', id)
      elseif not call('ZSCORE', P .. 'due', id) then
        stock(job)
      end
    end
  end
  for i, job in ipairs(jobs) do
    if solo or is_solo(job) or job.held or job.due or mended[job] then
      unshelve(job)
      call('ZREM', P .. 'due', job.id)
      call('ZREM', P .. 'solo', job.id)
    else
      later('SREM', P .. 'spec:' .. job.spec, job.id)
    end
    local attempt, token = tostring(tonumber(job.attempt or 0) + 1), tokens[i]
    local expires = num(now + lease_for)
    write(job, {
      state = 'running', due = false, attempt = attempt, token = token, node = node, started = num(now), expires = expires,
      solo_lease = is_solo(job) and '1' or false,
    })
    call('HSET', P .. 'a:' .. job.id, attempt .. ':node', node, attempt .. ':started', num(now))
    later('ZADD', P .. 'running', expires, job.id)
    count('queued', 'running')
    leases[i] = {
      job.id, attempt, token, expires, job.spec, job.inputs or '', job.assignment or '', job.student or '',
      job.solo_lease or '', job.submitted or '', job.course or '', job.labels or '',
    }
  end
end

for i, job in ipairs(settled) do settled[i] = as_read(job) end
local reply = { cmsgpack.pack({ refused, settled, leases }), {}, more }
if #leases > 0 or number > 0 then
  call('HSET', slot, 'request', request, 'reply', reply[1])
  call('EXPIRE', slot, C.REPLY_KEPT)
  tell(ARGV[2])
end
if bring > 0 then
  local brought = {}
  for i, lease in ipairs(leases) do
    local first = call('GETRANGE', P .. 'b:' .. lease[6] .. ':0', 0, bring) -- the whole of it, if it is no longer
    brought[i] = #first <= bring and first or ''
  end
  reply[2] = brought
end
return reply
