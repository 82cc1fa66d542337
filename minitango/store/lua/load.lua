-- Fill a queue with the jobs of another store (`Portable.load`). While meta has `loading`, the token of who fills it, every
-- other script refuses.
-- Writes meta j: a: r: o: jobs ids of:a: of:s: keys key: refs lanes ready: alone: due solo spec: held: others running
-- cancels ended outbox cb: drain
-- ARGV: verb, token, and:
--   begin: where the files of the jobs are to be (`blobs` of meta), or ''. Replies 0: there are jobs; 1: begun; 2: begun, and what an earlier one left is to be cleared first,
--     which it says until `cleared` was said.
--   clear: keys, as they are below the queue's own beginning.
--   cleared: nothing.
--   abandon: nothing. What was filled in was cleared, and the queue is as it was before.
--   jobs: for each, in order of their numbers: how many values, the hash; how many, the attempts; the result; how many,
--     the outputs; how many, what became of its callback; when that is due, or ''; '1' where it is its key's latest. A job that is there already was sent before.
--   end: how many jobs there are to be, the last number, the last end, drained nodes. Replies how many there are where
--     it is another number, and does not end then; -1: ended.
local verb, token = ARGV[1], ARGV[2]
local filling = call('HGET', KEYS[1], 'loading')
if verb == 'begin' then
  if not filling and call('EXISTS', P .. 'jobs') == 1 then return 0 end
  if filling and filling ~= token then call('HSET', KEYS[1], 'clearing', '1') end
  call('HSET', KEYS[1], 'loading', token)
  if (ARGV[3] or '') ~= '' then call('HSET', KEYS[1], 'blobs', ARGV[3]) end
  return call('HEXISTS', KEYS[1], 'clearing') == 1 and 2 or 1
end
if verb == 'end' and not filling and call('HGET', KEYS[1], 'loaded') == token then return -1 end -- said again, as no answer came
if filling ~= token then return redis.error_reply('FILLING by another') end

if verb == 'clear' then
  for i = 3, #ARGV do call('UNLINK', P .. ARGV[i]) end
  return 1
end
if verb == 'cleared' or verb == 'abandon' then
  for _, state in ipairs({ 'queued', 'running', 'done', 'dead', 'cancelled' }) do call('HDEL', KEYS[1], 'n:' .. state) end
  call('HDEL', KEYS[1], 'clearing')
  if verb == 'cleared' then call('HDEL', KEYS[1], 'seq', 'ended_seq') end
  if verb == 'abandon' then call('HDEL', KEYS[1], 'loading') end
  return 1
end

if verb == 'end' then
  local there = call('ZCARD', P .. 'jobs')
  if there ~= tonumber(ARGV[3]) then return there end
  for i, field in ipairs({ 'seq', 'ended_seq' }) do
    local given = tonumber(ARGV[3 + i])
    if given > tonumber(call('HGET', KEYS[1], field) or 0) then call('HSET', KEYS[1], field, ARGV[3 + i]) end
  end
  for i = 6, #ARGV do call('SADD', P .. 'drain', ARGV[i]) end
  call('HDEL', KEYS[1], 'loading')
  call('HSET', KEYS[1], 'loaded', token)
  tell()
  return -1
end

local at = 3
local function take()
  at = at + 1
  return ARGV[at - 1]
end
local function take_many()
  local n, many = tonumber(take()), {}
  for i = 1, n do many[i] = take() end
  return many
end
local function put(command, key, values)
  for first = 1, #values, 1000 do call(command, key, unpack(values, first, math.min(first + 999, #values))) end
end

while at <= #ARGV do
  local fields, attempts, result, outputs = take_many(), take_many(), take(), take_many()
  local post, post_due, holder = take_many(), take(), take() == '1'
  local job = as_table(fields)
  local id, seq, key = job.id, job.seq, job.key
  if call('EXISTS', P .. 'j:' .. id) == 0 then
    put('HSET', P .. 'j:' .. id, fields)
    put('HSET', P .. 'a:' .. id, attempts)
    if result ~= '' then call('SET', P .. 'r:' .. id, result) end
    put('RPUSH', P .. 'o:' .. id, outputs)
    call('ZADD', P .. 'jobs', seq, id)
    call('ZADD', P .. 'ids', 0, id)
    call('ZADD', P .. 'of:a:' .. job.assignment, seq, id)
    call('ZADD', P .. 'of:s:' .. job.student, seq, id)
    if key then
      local before = call('HGET', P .. 'keys', key)
      if before and call('EXISTS', P .. 'key:' .. key) == 0 then
        call('ZADD', P .. 'key:' .. key, call('ZSCORE', P .. 'jobs', before) or 0, before)
      end
      if before or not holder or call('EXISTS', P .. 'key:' .. key) == 1 then call('ZADD', P .. 'key:' .. key, seq, id) end
      if holder then call('HSET', P .. 'keys', key, id) end
    end
    for digest in string.gmatch(job.refs, '%S+') do call('HINCRBY', P .. 'refs', digest, 1) end
    count(nil, job.state)
    if job.state == 'queued' then
      shelve(job)
    elseif job.state == 'running' then
      call('ZADD', P .. 'running', job.expires, id)
      if job.cancel_requested then call('SADD', P .. 'cancels', id) end
    else
      call('ZADD', P .. 'ended', job.ended_seq, id)
      put('HSET', P .. 'cb:' .. id, post)
      if post_due ~= '' then call('ZADD', P .. 'outbox', post_due, id) end
    end
  end
end
return 1
