-- What every script of the Redis store begins with; then come `moving.lua` and its own part. A line before it, written by
-- `_redis_link.py`, sets VERB, whose script it is, and C: the constants of `retry.py` and `job.py`, so that each is decided
-- in one place. A script's own part becomes a function, after which `books` is called.
--
-- KEYS[1] is <queue>meta, where <queue> is "minitango:{NAME}:". All other keys begin like it, so a queue is one slot of
-- a cluster. "j:" and so on stand for <queue>j: below.
--
--   meta          hash   version, from the first script that writes on; seq and ended_seq: the last numbers given; n:STATE: how many jobs are in it;
--                        reaped: when that was last tried; settled: from when on leases count as lapsed again;
--                        loading: who fills this queue from another store, and until then nobody else may use it;
--                        clearing: what an earlier one left there is not yet gone; loaded: who filled it last, and was told so;
--                        blobs: where its files are, as who submitted first had it: server, or directory and which
--   j:ID          hash   one job: the fields of `job.Job` that are set, and
--                        order (its place among equals of a lane), refs (digests, by blanks), due_since, token,
--                        solo_lease, callback, failure_id and reach (of failure), held... (`retry.Hold`), late
--   a:ID          hash   its attempts: N:node, N:started, N:ended, N:by, N:failure
--   r:ID          string its result, JSON
--   o:ID          list   what its steps printed: step, head, tail, elided, and so on
--   jobs          zset   every job, by seq
--   ids           zset   every job's id, all with score 0: to find one by its beginning
--   of:a:NAME     zset   the jobs of an assignment, by seq;   of:s:NAME  of a student
--   keys          hash   idempotency key -> its latest job;   key:KEY  zset  its jobs by seq, once there are two
--   refs          hash   blob -> how often jobs name it
--   lanes         set    lanes that have a job in ready: or alone:, and some that had one
--   ready:LANE    zset   queued and due, all with score 0: late, order, id in one word, so that the first is the next
--   alone:LANE    zset   the same, of jobs that are to be run alone
--   due           zset   queued and not yet due, by due time
--   solo          zset   queued, to be run alone: by due_since
--   spec:DIGEST   set    queued jobs of one assignment
--   held:DIGEST   zset   those of them that are held, by how often, then seq
--   others        set    queued jobs that are held for want of any sandbox, and not `alone`
--   waves         hash   what is still to be done to many queued jobs: `set_out`
--   running       zset   running, by expiry;   cancels  set  those of them whose cancel was requested
--   ended         zset   ended, by ended_seq
--   outbox        zset   ended jobs whose callback is to be delivered, by when it is due, or a try under way lapses
--   cb:ID         hash   what became of a callback so far: since, tries, token (of the try under way), settled, error
--   nodes         hash   node -> JSON;   seen  zset  node -> when it was last heard of;   drain  set  to take no more
--   last:CLIENT   hash   the last exchange of a client and its reply, for a while: asked again, it answers the same
--   last:ID       string what a submission was answered, for a while, whose first new job this is and that had others, too
--
-- A change is told on the channel <queue>changed; by an exchange with its client, who knows. Numbers that are times travel as text, since Redis cuts them.

local P = string.sub(KEYS[1], 1, -5)
local call = redis.call

-- Who is alive, and whose job is whose, is told also where the server's memory is full: it takes no room worth speaking of.
-- A server asks before a script's first write whether there is room, if that could need some: this one cannot.
if VERB == 'nodes' or VERB == 'extend' or VERB == 'reap' then call('ZREM', P .. 'due', '') end

local found = call('HMGET', KEYS[1], 'version', 'loading')
if found[1] and tonumber(found[1]) > C.VERSION then
  return redis.error_reply('TOONEW ' .. found[1])
end
if not found[1] and VERB ~= 'dump' then call('HSET', KEYS[1], 'version', C.VERSION) end
if found[2] and VERB ~= 'load' and VERB ~= 'blobs' then return redis.error_reply('FILLING') end

local function num(x) return string.format('%.17g', x) end

local function clock(given)
  if given ~= '' then return tonumber(given) end
  local t = call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- Who may not tell is refused before a script runs; what is done by now stays done.
local function tell(who) redis.pcall('PUBLISH', P .. 'changed', who or '') end

local function as_table(flat)
  local t = {}
  for i = 1, #flat, 2 do t[flat[i]] = flat[i + 1] end
  return t
end

-- Fields of a job's hash, without error: nothing, where it is no hash.
local function read(id, ...)
  local got = redis.pcall('HMGET', P .. 'j:' .. id, ...)
  return got.err and {} or got
end

local function is_natural(text, most)
  return #text > 0 and #text <= (most or 9) and not string.find(text, '%D')
end
local function is_real(text)
  if not string.find(text, '^-?%d+%.?%d*$') and not string.find(text, '^-?%d+%.?%d*e[-+]?%d+$') then return false end
  return math.abs(tonumber(text)) < math.huge
end
local function is_order(text) return #text == C.ORDER_LENGTH and not string.find(text, '%X') end

-- The last number that was given: what meta says, else what its index has.
local function last_number(field, index)
  local said = call('HGET', KEYS[1], field)
  if said and is_natural(said, 15) then return tonumber(said) end
  return tonumber(call('ZREVRANGE', P .. index, 0, 0, 'WITHSCORES')[2] or 0)
end

-- What comes of a record that was damaged: a job whose fields no script stumbles over. Where one is missing or no number,
-- it gets what costs the job least, and `mended` what the hash has instead: that is answered, as whoever reads it is to
-- find what is wrong, until the job is written. What nobody can know is never made up there.
local STATES = { queued = true, running = true, done = true, dead = true, cancelled = true }
local COUNTS = { 'attempt', 'failures', 'interruptions', 'solo_deaths', 'late', 'held' }
local TIMES = { 'due', 'due_since', 'started', 'expires', 'ended', 'held_at', 'held_since' }
local NEEDED = { spec = true, assignment = true, student = true, refs = true }
local mended = {}
local function mend(job, id)
  local was = {}
  local function put(field, value)
    was[field] = job[field] or false
    job[field] = value
  end
  if job.id ~= id then put('id', id) end
  for field in pairs(NEEDED) do
    if not job[field] then put(field, '') end
  end
  if not job.lane then put('lane', '') end
  for _, field in ipairs(COUNTS) do
    if job[field] and not is_natural(job[field]) then put(field, nil) end
  end
  for _, field in ipairs(TIMES) do
    if job[field] and not is_real(job[field]) then put(field, nil) end
  end
  if not is_natural(job.seq or '', 15) then
    local at = call('ZSCORE', P .. 'jobs', id) or ''
    put('seq', is_natural(at, 15) and at or '0')
  end
  if not is_order(job.order or '') then -- that of one to which nobody gave a priority
    put('order', '7fffffffffffffff8000000000000000' .. string.format('%014x', job.seq))
  end
  if not STATES[job.state or ''] then
    if call('ZSCORE', P .. 'running', id) then
      put('state', 'running')
    elseif call('ZSCORE', P .. 'ended', id) then
      local by = call('HGET', P .. 'a:' .. id, (job.attempt or '0') .. ':by')
      local died = by == 'fail' or by == 'reap' or by == 'recover'
      put('state', call('EXISTS', P .. 'r:' .. id) == 1 and 'done' or died and 'dead' or 'cancelled')
    else
      put('state', 'queued')
    end
  end
  if not job.attempt and (was.attempt or job.state == 'running') then
    local last = 0
    for _, field in ipairs(call('HKEYS', P .. 'a:' .. id)) do
      last = math.max(last, tonumber(string.match(field, '^(%d%d?%d?%d?%d?%d?):') or 0))
    end
    put('attempt', tostring(last))
  end
  if not job.due_since then put('due_since', is_real(job.submitted or '') and job.submitted or '0') end
  if tonumber(job.held or 0) > 0 and not (job.held_at and job.held_since and is_natural(job.held_mark or '', 15)) then
    for _, field in ipairs({ 'held', 'held_alone', 'held_at', 'held_since', 'held_mark' }) do
      if job[field] then put(field, nil) end
    end
  end
  if next(was) then mended[job] = was end
  return job
end

-- Whether `mend` would change nothing, for nearly all that are: each number looked at by itself takes four times as long.
local function is_sound(job, id)
  if job.id ~= id or not STATES[job.state or ''] or not is_order(job.order or '') then return false end
  if not (job.spec and job.assignment and job.student and job.refs and job.lane and job.due_since and job.seq) then return false end
  if (job.held or '0') ~= '0' or not job.attempt and job.state == 'running' then return false end
  local counts = ';' .. job.seq .. ';' .. (job.attempt or '0') .. ';' .. (job.failures or '0') .. ';'
    .. (job.interruptions or '0') .. ';' .. (job.solo_deaths or '0') .. ';' .. (job.late or '0') .. ';'
  if string.find(counts, '[^%d;]') or string.find(counts, ';;', 1, true) then return false end
  if #counts > 16 and string.find(counts, '%d%d%d%d%d%d%d%d%d%d') then return false end
  local times = ';' .. job.due_since .. ';' .. (job.due or '0') .. ';' .. (job.started or '0') .. ';' .. (job.expires or '0')
    .. ';' .. (job.ended or '0') .. ';' .. (job.held_at or '0') .. ';' .. (job.held_since or '0') .. ';'
  return #times < 200 and not string.find(times, '[^%d.;]') and not string.find(times, ';%.*;')
    and not string.find(times, ';%.') and not string.find(times, '%.%d*%.')
end

local function load(id)
  local found = redis.pcall('HGETALL', P .. 'j:' .. id)
  if found.err then return nil end -- it is something else
  local job = as_table(found)
  if job.id == nil and job.state == nil then return nil end -- nothing is left of it
  return is_sound(job, id) and job or mend(job, id)
end

-- Take changes into a job that was loaded, in memory and in its hash; false: the field goes. What was mended goes along.
local function write(job, changes)
  local set, gone, was = {}, {}, mended[job] or {}
  local function put(field, value)
    if value then
      set[#set + 1] = field
      set[#set + 1] = value
    else
      gone[#gone + 1] = field
    end
  end
  for field, value in pairs(changes) do
    if value or job[field] ~= nil or was[field] then put(field, value) end
    job[field] = value or nil
    was[field] = nil
  end
  for field in pairs(was) do
    if not NEEDED[field] then
      put(field, job[field] or false)
      was[field] = nil
    end
  end
  if #set > 0 then call('HSET', P .. 'j:' .. job.id, unpack(set)) end
  if #gone > 0 then call('HDEL', P .. 'j:' .. job.id, unpack(gone)) end
end

-- A job as its hash has it.
local function as_read(job)
  local was = mended[job]
  if not was or not next(was) then return job end
  local out = {}
  for field, value in pairs(job) do out[field] = value end
  for field, value in pairs(was) do out[field] = value or nil end
  return out
end
local function flat(job)
  local out = {}
  for field, value in pairs(as_read(job)) do
    out[#out + 1] = field
    out[#out + 1] = tostring(value)
  end
  return out
end
