-- Take callbacks that are due (`Outbox.take_callbacks`).
-- Writes outbox cb: ; reads j:
-- ARGV: now, farthest, lease_for, then a new token for each that is wanted.
-- Replies: for each job, token, url, tries, since.
local now = clock(ARGV[1])
local lapses = num(now + tonumber(ARGV[3]))
local wanted = #ARGV - 3

local function due()
  local ids = call('ZRANGEBYSCORE', P .. 'outbox', '-inf', num(now), 'LIMIT', 0, wanted)
  if #ids < wanted then -- those whose due time a clock gave that was set back since
    local late = call('ZRANGEBYSCORE', P .. 'outbox', '(' .. num(now + tonumber(ARGV[2])), '+inf', 'LIMIT', 0, wanted - #ids)
    for _, id in ipairs(late) do ids[#ids + 1] = id end
  end
  return ids
end

local ids, urls
repeat
  local lost = false
  ids, urls = due(), {}
  for i, id in ipairs(ids) do
    urls[i] = read(id, 'callback')[1]
    if not urls[i] then -- nothing is left of it, and nobody is to be told
      call('ZREM', P .. 'outbox', id)
      call('DEL', P .. 'cb:' .. id)
      lost = true
    end
  end
until not lost

local out = {}
for i, id in ipairs(ids) do
  local token, told = ARGV[3 + i], P .. 'cb:' .. id
  call('ZADD', P .. 'outbox', lapses, id)
  call('HSET', told, 'token', token)
  local tries, since = unpack(call('HMGET', told, 'tries', 'since'))
  local from = tonumber(since or nil)
  if not string.match(tries or '', '^%d%d?%d?%d?%d?%d?$') or not from or from ~= from or math.abs(from) == math.huge then
    tries, since = '0', num(now) -- what became of it so far is lost: it begins anew
    call('HSET', told, 'tries', tries, 'since', since)
  end
  out[i] = { id, token, urls[i], tries, since }
end
return out
