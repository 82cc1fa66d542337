-- Record how a try to deliver went (`Outbox.callback_delivered`, `Outbox.callback_failed`).
-- Writes j: outbox cb:
-- ARGV: now, job, token, what became of it, seconds until it is due again, 1 where it counts, error. Replies: 1, or 0
-- where the try is not the current one.
local now, id, became = clock(ARGV[1]), ARGV[2], ARGV[4]
local told = P .. 'cb:' .. id
if call('HGET', told, 'token') ~= ARGV[3] then return 0 end
if call('HEXISTS', P .. 'j:' .. id, 'id') == 0 then -- nothing is left of it, and it is not made anew
  call('ZREM', P .. 'outbox', id)
  call('DEL', told)
  return 0
end
call('HDEL', told, 'token')
if ARGV[6] == '1' then call('HINCRBY', told, 'tries', 1) end
if ARGV[7] ~= '' then call('HSET', told, 'error', ARGV[7]) end
if became == 'pending' then
  call('ZADD', P .. 'outbox', num(now + tonumber(ARGV[5])), id)
else
  call('ZREM', P .. 'outbox', id)
  call('HSET', told, 'settled', num(now))
end
call('HSET', P .. 'j:' .. id, 'delivery', became)
return 1
