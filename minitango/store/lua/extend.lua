-- Move the expiry of leases (`Queue.extend`).
-- Writes j: running
-- ARGV: now, lease_for, then for each lease: job, attempt, token. Replies: the numbers of those that are lost.
local now = clock(ARGV[1])
local expires = num(now + tonumber(ARGV[2]))
local lost = {}
for at = 3, #ARGV, 3 do
  local got = read(ARGV[at], 'attempt', 'token')
  if got[1] == ARGV[at + 1] and got[2] == ARGV[at + 2] then
    call('HSET', P .. 'j:' .. ARGV[at], 'expires', expires)
    call('ZADD', P .. 'running', expires, ARGV[at])
  else
    lost[#lost + 1] = (at - 3) / 3
  end
end
return lost
