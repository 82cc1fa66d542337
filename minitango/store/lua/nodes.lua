-- Who grades this queue (`Nodes`).
-- Writes nodes seen drain
-- ARGV: now, verb, node, and: beat: its record, its instance, those that it comes after; leave: its instance;
--   drain: '1' or '0'.
-- Replies: 1 where beat finds that it is to take no more, where leave or drain knew the node; else 0. beat: the record
--   of another that is alive under this name, and nothing is changed.
local now, verb, node = clock(ARGV[1]), ARGV[2], ARGV[3]

-- Who has this name, and for how long a word of his is good; nothing, where what was noted of him was damaged.
local function noted(record)
  local whole, said = pcall(cjson.decode, record)
  if not whole or type(said) ~= 'table' or said.name ~= node or type(said.instance) ~= 'string' then return nil end
  local good_for = said.good_for or C.GOOD_FOR
  if type(good_for) ~= 'number' or not (good_for >= 0 and good_for <= C.UNHEARD) then return nil end
  return said.instance, good_for
end

local known = call('HGET', P .. 'nodes', node)
if verb == 'beat' then
  if known then
    local other, good_for = noted(known)
    local ours = not other
    for i = 5, #ARGV do ours = ours or ARGV[i] == other end
    local seen = tonumber(call('ZSCORE', P .. 'seen', node) or 0)
    if not ours and now - seen < good_for then return known end
  end
  for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'seen', '-inf', '(' .. num(now - C.UNHEARD), 'LIMIT', 0, 100)) do
    call('HDEL', P .. 'nodes', name)
    call('ZREM', P .. 'seen', name)
  end
  call('HSET', P .. 'nodes', node, ARGV[4])
  call('ZADD', P .. 'seen', num(now), node)
  if not known then tell() end
  return call('SISMEMBER', P .. 'drain', node)
end
if not known and (verb == 'leave' or call('SISMEMBER', P .. 'drain', node) == 0) then return 0 end
if verb == 'leave' then
  if ARGV[4] ~= '' and (noted(known) or ARGV[4]) ~= ARGV[4] then return 0 end
  call('HDEL', P .. 'nodes', node)
  call('ZREM', P .. 'seen', node)
elseif ARGV[4] == '1' then
  call('SADD', P .. 'drain', node)
else
  call('SREM', P .. 'drain', node)
end
tell()
return 1
