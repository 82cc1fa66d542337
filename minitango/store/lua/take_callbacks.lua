-- Take callbacks that are due (`Outbox.take_callbacks`).
-- Writes outbox cb:
-- ARGV: now, farthest, lease_for, then a new token for each that is wanted.
-- Replies: for each job, token, url, tries, since.
local now = clock(ARGV[1])
local lapses = num(now + tonumber(ARGV[3]))
local wanted = #ARGV - 3
local ids = call('ZRANGEBYSCORE', P .. 'outbox', '-inf', num(now), 'LIMIT', 0, wanted)
if #ids < wanted then -- those whose due time a clock gave that was set back since
  local late = call('ZRANGEBYSCORE', P .. 'outbox', '(' .. num(now + tonumber(ARGV[2])), '+inf', 'LIMIT', 0, wanted - #ids)
  for _, id in ipairs(late) do ids[#ids + 1] = id end
end
local out = {}
for i, id in ipairs(ids) do
  local token = ARGV[3 + i]
  call('ZADD', P .. 'outbox', lapses, id)
  call('HSET', P .. 'cb:' .. id, 'token', token)
  local told = call('HMGET', P .. 'cb:' .. id, 'tries', 'since')
  out[i] = { id, token, call('HGET', P .. 'j:' .. id, 'callback'), told[1], told[2] }
end
return out
