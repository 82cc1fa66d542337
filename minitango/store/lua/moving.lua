-- How jobs move between states, and what is counted of it. Comes after `common.lua` in each script.

local ENDED = { done = true, dead = true, cancelled = true }

local function is_solo(job) return tonumber(job.interruptions or 0) >= C.SOLO_AFTER end
local function place(job) return string.format('%04x', math.min(tonumber(job.late or 0), 65535)) .. job.order .. job.id end
local function shelf(job) return P .. (is_solo(job) and 'alone:' or 'ready:') .. job.lane end

-- Lanes to which a job was added, and those from which one was taken, or in which none was found: `books` strikes those
-- that are empty, where there are many. Nodes of earlier versions add a lane only when a job is submitted that needs it,
-- and give away only what is in one that is listed.
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

-- Of one whose record was damaged, it is not known where it was: what is left of it there goes when it is met.
local function unshelve(job)
  local anywhere = mended[job] ~= nil
  if job.due or anywhere then call('ZREM', P .. 'due', job.id) end
  if not job.due then call('ZREM', shelf(job), place(job)) end
  if anywhere then
    call('ZREM', P .. 'ready:' .. job.lane, place(job))
    call('ZREM', P .. 'alone:' .. job.lane, place(job))
  end
  thinned[job.lane] = true
  call('SREM', P .. 'spec:' .. job.spec, job.id)
  if is_solo(job) or anywhere then call('ZREM', P .. 'solo', job.id) end
  if tonumber(job.held or 0) > 0 or anywhere then
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
  ended_before = ended_before or last_number('ended_seq', 'ended')
  return string.format('%d', ended_before + ended_here)
end
local function next_ended()
  ended_here = ended_here + 1
  return last_ended()
end
-- How many jobs are in a state, by the indexes.
local function recount(state)
  local running, ended = call('ZCARD', P .. 'running'), call('ZCARD', P .. 'ended')
  if state == 'running' then return running end
  if state == 'queued' then return call('ZCARD', P .. 'jobs') - running - ended end
  for other in pairs(ENDED) do
    if other ~= state then ended = ended - (tonumber(call('HGET', KEYS[1], 'n:' .. other)) or 0) end
  end
  return ended
end
local function books()
  flush()
  for lane in pairs(next(thinned) and call('SCARD', P .. 'lanes') > C.MANY_LANES and thinned or {}) do
    if call('EXISTS', P .. 'ready:' .. lane, P .. 'alone:' .. lane) == 0 then call('SREM', P .. 'lanes', lane) end
  end
  if ended_here > 0 then call('HSET', KEYS[1], 'ended_seq', last_ended()) end
  local lost = {}
  for state, n in pairs(moved) do
    local done = n == 0 or redis.pcall('HINCRBY', KEYS[1], 'n:' .. state, n)
    if type(done) == 'table' then lost[#lost + 1] = state end -- it was no number
  end
  for _, state in ipairs(lost) do call('HSET', KEYS[1], 'n:' .. state, recount(state)) end
end

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
        if not job or job.state ~= 'queued' then -- nothing is left of it, and it is no mate of anybody's
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
