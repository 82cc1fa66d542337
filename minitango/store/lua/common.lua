-- What every script of the Redis store begins with. A line before it, written by `_redis_link.py`, sets VERB, whose script
-- it is, and C: the constants of `retry.py` and `job.py`, so that each is decided in one place. The script itself becomes a
-- function, after which `books` is called.
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
--   lanes         set    lanes that have a job in ready: or alone:
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

local function tell(who) call('PUBLISH', P .. 'changed', who or '') end

local function as_table(flat)
  local t = {}
  for i = 1, #flat, 2 do t[flat[i]] = flat[i + 1] end
  return t
end

local function load(id)
  local job = as_table(call('HGETALL', P .. 'j:' .. id))
  if job.id == nil then return nil end
  return job
end

-- Take changes into a job that was loaded, in memory and in its hash; false: the field goes.
local function write(job, changes)
  local set, gone = {}, {}
  for field, value in pairs(changes) do
    if value == false then
      if job[field] ~= nil then gone[#gone + 1] = field end
      job[field] = nil
    else
      job[field] = value
      set[#set + 1] = field
      set[#set + 1] = value
    end
  end
  if #set > 0 then call('HSET', P .. 'j:' .. job.id, unpack(set)) end
  if #gone > 0 then call('HDEL', P .. 'j:' .. job.id, unpack(gone)) end
end

local function is_solo(job) return tonumber(job.interruptions or 0) >= C.SOLO_AFTER end
local function place(job) return string.format('%04x', math.min(tonumber(job.late or 0), 65535)) .. job.order .. job.id end
local function shelf(job) return P .. (is_solo(job) and 'alone:' or 'ready:') .. job.lane end

-- Lanes to which a job was added, and those from which one was taken, or in which none was found: `books` strikes those
-- that are empty.
local stocked, thinned = {}, {}
local function stock(job)
  call('ZADD', shelf(job), 0, place(job))
  if not stocked[job.lane] then call('SADD', P .. 'lanes', job.lane) end
  stocked[job.lane] = true
end

-- Put a queued job into the indexes of queued jobs; `unshelve`, with the same values in it, takes it out.
local function shelve(job)
  if job.due then call('ZADD', P .. 'due', job.due, job.id) else stock(job) end
  call('SADD', P .. 'spec:' .. job.spec, job.id)
  if is_solo(job) then call('ZADD', P .. 'solo', job.due_since, job.id) end
  local held = tonumber(job.held or 0)
  if held > 0 then
    call('ZADD', P .. 'held:' .. job.spec, num(math.min(held, 4095) * 1099511627776 + tonumber(job.seq)), job.id)
    if job.held_alone ~= '1' and job.failure and job.reach == 'sandbox' then call('SADD', P .. 'others', job.id) end
  end
end

local function unshelve(job)
  if job.due then call('ZREM', P .. 'due', job.id) else call('ZREM', shelf(job), place(job)) end
  thinned[job.lane or ''] = true
  call('SREM', P .. 'spec:' .. job.spec, job.id)
  if is_solo(job) then call('ZREM', P .. 'solo', job.id) end
  if tonumber(job.held or 0) > 0 then
    call('ZREM', P .. 'held:' .. job.spec, job.id)
    call('SREM', P .. 'others', job.id)
  end
end

-- Writes to one key are gathered and made at once, since each call costs more than what it does: by `flush`, at the end of
-- every script, and before whatever in it reads such a key.
local gathered = {}
local function make(key)
  local values = gathered[key]
  gathered[key] = nil
  for first = 1, #values, 1000 do call(values.command, key, unpack(values, first, math.min(first + 999, #values))) end
end
local function later(command, key, first, second)
  if gathered[key] and gathered[key].command ~= command then make(key) end
  local values = gathered[key] or { command = command }
  gathered[key] = values
  values[#values + 1] = first
  values[#values + 1] = second
end
local function flush()
  for key in pairs(gathered) do make(key) end
end

-- Count a job that moves between states, and number those that end. What comes of it is written once, by `books`, at the
-- end of every script.
local moved = {}
local function count(source, target)
  if source then moved[source] = (moved[source] or 0) - 1 end
  if target then moved[target] = (moved[target] or 0) + 1 end
end
local ended_before, ended_here = nil, 0
local function last_ended()
  ended_before = ended_before or tonumber(call('HGET', KEYS[1], 'ended_seq') or 0)
  return string.format('%d', ended_before + ended_here)
end
local function next_ended()
  ended_here = ended_here + 1
  return last_ended()
end
local function books()
  flush()
  for lane in pairs(thinned) do
    if call('EXISTS', P .. 'ready:' .. lane, P .. 'alone:' .. lane) == 0 then call('SREM', P .. 'lanes', lane) end
  end
  if ended_here > 0 then call('HSET', KEYS[1], 'ended_seq', last_ended()) end
  for state, n in pairs(moved) do
    if n ~= 0 then call('HINCRBY', KEYS[1], 'n:' .. state, n) end
  end
end

local ENDED = { done = true, dead = true, cancelled = true }

-- A queued or running job leaves its state by a verb; `failure` (JSON) is its attempt's; `more`: what changes besides.
local function leave(job, verb, target, now, delay, failure, more)
  if job.state == 'queued' then
    unshelve(job)
  else
    local n = job.attempt
    call('HSET', P .. 'a:' .. job.id, n .. ':ended', num(now), n .. ':by', verb)
    if failure then call('HSET', P .. 'a:' .. job.id, n .. ':failure', failure) end
    later('ZREM', P .. 'running', job.id)
    if job.cancel_requested then call('SREM', P .. 'cancels', job.id) end
  end
  count(job.state, target)
  local changes = more or {}
  changes.state, changes.due, changes.due_since = target, false, num(now + delay)
  changes.expires, changes.token, changes.solo_lease = false, false, false
  if ENDED[target] then
    changes.ended = num(now)
    changes.ended_seq = next_ended()
    later('ZADD', P .. 'ended', changes.ended_seq, job.id)
    if job.callback then
      changes.delivery = 'pending'
      call('ZADD', P .. 'outbox', num(now), job.id)
      call('HSET', P .. 'cb:' .. job.id, 'since', num(now), 'tries', '0')
    end
  elseif delay > 0 then
    changes.due = num(now + delay)
  end
  write(job, changes)
  if target == 'queued' then shelve(job) end
end

local function backoff(n, base, most) return math.min(most, base * 2 ^ math.min(math.max(n, 1) - 1, 32)) end

-- Take a running job back from an engine that died: `retry.after_interruption`.
local function interrupt(job, verb, now)
  if job.cancel_requested then return leave(job, 'cancelled', 'cancelled', now, 0) end
  local interruptions = tonumber(job.interruptions or 0) + 1
  local deaths = tonumber(job.solo_deaths or 0) + (job.solo_lease and 1 or 0)
  write(job, { interruptions = tostring(interruptions), solo_deaths = tostring(deaths) })
  if deaths >= C.MAX_SOLO_DEATHS or (deaths > 0 and interruptions >= C.MAX_INTERRUPTIONS) then
    write(job, { failure = C.POISON, failure_id = 'poison', reach = false })
    return leave(job, verb, 'dead', now, 0)
  end
  leave(job, verb, 'queued', now, deaths > 0 and backoff(deaths, 2, C.MOST_BACKOFF) or 0)
end

-- The job, if this attempt is its current one.
local function current(id, attempt, token)
  local job = load(id)
  if job and job.token == token and job.attempt == attempt then return job end
  return nil
end

local function flat(job)
  local out = {}
  for field, value in pairs(job) do
    out[#out + 1] = field
    out[#out + 1] = tostring(value)
  end
  return out
end

-- Have all jobs in a set or a sorted set of queued ones moved, in batches, as the server is to serve others between. Either
-- they are held: those that know of no later hold get `row`, and are due at `due`; or they are free at `due`, if they were
-- held at `held_at`. Until one is moved, nobody may claim it that is to be held: `caught`.
local is_set_out = false
local function set_out(name, wave)
  is_set_out = true
  wave.cursor = '0'
  call('HSET', P .. 'waves', name, cmsgpack.pack(wave))
end

local function is_to_move(job, wave)
  local at, held_at = tonumber(job.held_at or 0), tonumber(wave.held_at)
  if wave.row then return at < held_at end
  return at == held_at
end

local function move(job, wave)
  unshelve(job)
  local changes = { held = false, held_alone = false, late = false, due = false }
  changes.due_since = num(math.min(tonumber(job.due_since), wave.due))
  if wave.row then
    changes = wave.row
    changes.due = num(math.max(tonumber(job.due or 0), wave.due))
    changes.due_since = num(math.max(tonumber(job.due_since), wave.due))
  end
  write(job, changes)
  shelve(job)
end

-- What is left of the one batch of all that was set out which a script moves. Returns 1 where more is left, else 0.
local left = C.WAVE
local function surge()
  local waves = as_table(call('HGETALL', P .. 'waves'))
  -- A cursor is good for the process that gave it: after a restart or a failover it is begun anew.
  local process = next(waves) and string.match(call('INFO', 'server'), 'run_id:(%x+)') or ''
  for name, packed in pairs(waves) do
    local wave = cmsgpack.unpack(packed)
    if wave.process ~= process then wave.process, wave.cursor = process, '0' end
    local scan, width = 'ZSCAN', 2
    if wave.row then scan, width = 'SSCAN', 1 end
    repeat
      if left <= 0 then
        call('HSET', P .. 'waves', name, cmsgpack.pack(wave))
        return 1
      end
      local found = call(scan, P .. wave.key, wave.cursor, 'COUNT', 100)
      wave.cursor = found[1]
      for i = 1, #found[2], width do
        local job = load(found[2][i])
        if not job then -- nothing is left of it, and it is no mate of anybody's
          call(wave.row and 'SREM' or 'ZREM', P .. wave.key, found[2][i])
        elseif is_to_move(job, wave) then
          move(job, wave)
        end
      end
      left = left - 1 - #found[2] / width
    until wave.cursor == '0'
    call('HDEL', P .. 'waves', name)
    tell()
  end
  return 0
end

-- Whether this job, which is queued and ready, waits for its turn to be held; then it is.
local function caught(job)
  local packed = call('HGET', P .. 'waves', 'hold:' .. job.spec)
  local wave = packed and cmsgpack.unpack(packed)
  if not wave or not is_to_move(job, wave) then return false end
  move(job, wave)
  return true
end
