-- Queue jobs, all or none (`Queue.submit`).
-- Writes meta j: jobs ids of:a: of:s: keys key: refs lanes ready: alone: due solo spec: held: others last:
-- ARGV: now, fresh, again (the same was sent before, and no answer came), msgpack of 17 values for each job, as below, and
-- where their files are (`blobs` of meta), or ''.
-- Replies: for each job its id, 1 where it is new, its state; or {'taken', N}: the N-th id is another job's; or
-- {'elsewhere', where the queue has its files}.
local now = clock(ARGV[1])
local fresh, again = ARGV[2] == '1', ARGV[3] == '1'
local WIDTH = 17
local said = cmsgpack.unpack(ARGV[4])
local n = #said / WIDTH

for i = 0, n - 1 do
  if call('EXISTS', P .. 'j:' .. said[1 + i * WIDTH]) == 1 then
    if not again then return { 'taken', tostring(i + 1) } end
    -- It was done, then: say the same again. A write, for what waits until replicas have the last one of its connection.
    call('HINCRBY', KEYS[1], 'seq', 0)
    for k = 0, n - 1 do
      local answered = call('GET', P .. 'last:' .. said[1 + k * WIDTH])
      if answered then return cmsgpack.unpack(answered) end
    end
    local out = {}
    for k = 0, n - 1 do
      local id = said[1 + k * WIDTH]
      out[#out + 1] = id
      out[#out + 1] = '1'
      out[#out + 1] = (load(id) or {}).state or 'cancelled' -- it has ended, and was forgotten
    end
    return out
  end
end

if (ARGV[5] or '') ~= '' then
  local known = call('HGET', KEYS[1], 'blobs')
  if known and string.match(known, '^%a+') ~= string.match(ARGV[5], '^%a+') and call('EXISTS', P .. 'jobs') == 1 then
    return { 'elsewhere', known }
  end
  if known ~= ARGV[5] and (not known or call('EXISTS', P .. 'jobs') == 0) then call('HSET', KEYS[1], 'blobs', ARGV[5]) end
end

local out, told, named, lanes = {}, false, {}, {}
local first, mixed = nil, false -- the first id that was taken, and whether another was not
local seq = last_number('seq', 'jobs')
for i = 0, n - 1 do
  local at = 1 + i * WIDTH
  local id, order, lane, assignment, student = said[at], said[at + 1], said[at + 2], said[at + 3], said[at + 4]
  local course, title, spec, inputs, key = said[at + 5], said[at + 6], said[at + 7], said[at + 8], said[at + 9]
  local priority, rank, supersedes, labels = said[at + 10], said[at + 11], said[at + 12], said[at + 13]
  local callback, refs, queue = said[at + 14], said[at + 15], said[at + 16]
  local holder
  if key ~= '' then -- '=' and the key
    key = string.sub(key, 2)
    holder = call('HGET', P .. 'keys', key)
  end
  local kept_by
  if holder then
    local h = read(holder, 'state', 'cancel_requested', 'failure_id', 'lane')
    if not STATES[h[1] or ''] then
      flush()
      h[1] = (load(holder) or {}).state
    end
    local kept = h[1] == 'done' or (h[1] == 'dead' and h[3] == 'poison')
    if ((h[1] == 'queued' or h[1] == 'running') and not h[2]) or (kept and not fresh) then
      kept_by = h[1]
      if kept_by == 'queued' and h[4] ~= lane then -- it needs another node than it did
        flush()
        local job = load(holder)
        unshelve(job)
        write(job, { lane = lane })
        shelve(job)
      end
    elseif not h[1] then
      holder = nil -- nothing is left of it
    elseif supersedes == '' then
      supersedes = '=' .. holder
    end
  end
  if kept_by then
    seq = seq + 1
    call('HSET', P .. 'j:' .. holder, 'handed', num(now), 'handed_seq', seq)
    told, mixed = true, true
    out[#out + 1] = holder
    out[#out + 1] = '0'
    out[#out + 1] = kept_by
  else
    seq = seq + 1
    local fields = {
      'id', id, 'seq', seq, 'state', 'queued', 'queue', queue, 'order', order .. string.format('%014x', seq), 'lane', lane,
      'assignment', assignment, 'student', student, 'spec', spec, 'inputs', inputs, 'refs', refs,
      'submitted', num(now), 'due_since', num(now),
    }
    local function add(field, value, unless)
      if value ~= unless then
        fields[#fields + 1] = field
        fields[#fields + 1] = value
      end
    end
    add('course', course, '')
    add('title', title, '')
    add('priority', priority, '0')
    add('rank', rank, '0')
    add('labels', labels, '')
    add('callback', callback, '')
    if supersedes ~= '' then add('supersedes', string.sub(supersedes, 2), nil) end
    if key ~= '' then add('key', key, nil) end
    call('HSET', P .. 'j:' .. id, unpack(fields))
    later('ZADD', P .. 'jobs', seq, id)
    later('ZADD', P .. 'ids', 0, id)
    later('ZADD', P .. 'of:a:' .. assignment, seq, id)
    later('ZADD', P .. 'of:s:' .. student, seq, id)
    if said[at + 9] ~= '' then
      if holder and call('EXISTS', P .. 'key:' .. key) == 0 then
        call('ZADD', P .. 'key:' .. key, (load(holder) or {}).seq or 0, holder)
      end
      if holder or call('EXISTS', P .. 'key:' .. key) == 1 then call('ZADD', P .. 'key:' .. key, seq, id) end
      call('HSET', P .. 'keys', key, id)
    end
    for digest in string.gmatch(refs, '%S+') do named[digest] = (named[digest] or 0) + 1 end
    lanes[lane] = true
    later('ZADD', P .. 'ready:' .. lane, 0, '0000' .. order .. string.format('%014x', seq) .. id)
    later('SADD', P .. 'spec:' .. spec, id)
    count(nil, 'queued')
    told, first = true, first or id
    out[#out + 1] = id
    out[#out + 1] = '1'
    out[#out + 1] = 'queued'
  end
end
for digest, n in pairs(named) do call('HINCRBY', P .. 'refs', digest, n) end
for lane in pairs(lanes) do call('SADD', P .. 'lanes', lane) end
-- Whose those others are, is not to be seen from their ids, and keys move on.
if first and mixed then call('SET', P .. 'last:' .. first, cmsgpack.pack(out), 'EX', C.ANSWER_KEPT) end
if told then
  call('HSET', KEYS[1], 'seq', seq)
  tell()
end
return out
