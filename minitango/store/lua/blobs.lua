-- Blobs (`BlobStore`), which are written chunk by chunk, each to expire, and are there once they are sealed.
--
--   blobs      zset    blob -> when it was last put or touched
--   b:DIGEST   hash    size, chunks;   b:DIGEST:N  string  the N-th chunk, from 0
--
-- Writes blobs b: ; reads refs
-- ARGV: now, verb, and: put: digests, each with its bytes, of one chunk; seal: of each its digest, size, chunks; touch:
-- digests; drop: before, digests.
-- Replies: put: those that were not there, and the time; seal: those that are complete, and the time; touch: those that
-- are there; drop: digests and sizes of what went.
local now, verb = clock(ARGV[1]), ARGV[2]
local done = {}
if verb == 'put' then
  for i = 3, #ARGV, 2 do
    local key = P .. 'b:' .. ARGV[i]
    call('SET', key .. ':0', ARGV[i + 1])
    if call('HSET', key, 'size', tostring(#ARGV[i + 1]), 'chunks', '1') == 2 then done[#done + 1] = ARGV[i] end
    later('ZADD', P .. 'blobs', num(now), ARGV[i])
  end
  done[#done + 1] = num(now)
  return done
end
if verb == 'seal' then
  for i = 3, #ARGV, 3 do
    local digest, size, chunks = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
    local whole = true
    for n = 0, chunks - 1 do whole = whole and call('EXISTS', P .. 'b:' .. digest .. ':' .. n) == 1 end
    if whole then
      for n = 0, chunks - 1 do call('PERSIST', P .. 'b:' .. digest .. ':' .. n) end
      call('HSET', P .. 'b:' .. digest, 'size', size, 'chunks', tostring(chunks))
      call('ZADD', P .. 'blobs', num(now), digest)
      done[#done + 1] = digest
    end
  end
  done[#done + 1] = num(now)
  return done
end
if verb == 'touch' then
  for i = 3, #ARGV do
    local chunks = tonumber(call('HGET', P .. 'b:' .. ARGV[i], 'chunks'))
    local whole = chunks ~= nil
    for n = 0, (chunks or 0) - 1 do
      local key = P .. 'b:' .. ARGV[i] .. ':' .. n
      whole = whole and call('EXISTS', key) == 1
      if whole then call('PERSIST', key) end
    end
    if whole then
      call('ZADD', P .. 'blobs', num(now), ARGV[i])
      done[#done + 1] = ARGV[i]
    end
  end
  return done
end
local gone = {}
for i = 4, #ARGV do
  local digest = ARGV[i]
  local at = call('ZSCORE', P .. 'blobs', digest)
  if at and tonumber(at) < tonumber(ARGV[3]) and not call('HGET', P .. 'refs', digest) then
    local found = call('HMGET', P .. 'b:' .. digest, 'size', 'chunks')
    for n = 0, tonumber(found[2] or 0) - 1 do call('UNLINK', P .. 'b:' .. digest .. ':' .. n) end
    call('DEL', P .. 'b:' .. digest)
    call('ZREM', P .. 'blobs', digest)
    gone[#gone + 1] = digest
    gone[#gone + 1] = found[1] or '0'
  end
end
return gone
