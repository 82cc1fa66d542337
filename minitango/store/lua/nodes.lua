-- Who grades this queue (`Nodes`).
-- Writes nodes seen drain
-- ARGV: now, verb, node, and: beat: its record; leave: its instance; drain: '1' or '0'.
-- Replies: 1 where beat finds that it is to take no more, where leave or drain knew the node; else 0.
local now, verb, node = clock(ARGV[1]), ARGV[2], ARGV[3]
local known = call('HGET', P .. 'nodes', node)
if verb == 'beat' then
  call('HSET', P .. 'nodes', node, ARGV[4])
  call('ZADD', P .. 'seen', num(now), node)
  if not known then tell() end
  return call('SISMEMBER', P .. 'drain', node)
end
if not known then return 0 end
if verb == 'leave' then
  if ARGV[4] ~= '' and cjson.decode(known).instance ~= ARGV[4] then return 0 end
  call('HDEL', P .. 'nodes', node)
  call('ZREM', P .. 'seen', node)
elseif ARGV[4] == '1' then
  call('SADD', P .. 'drain', node)
else
  call('SREM', P .. 'drain', node)
end
tell()
return 1
