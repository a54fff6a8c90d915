-- Checks that Redis still holds a position, and writes, so that a WAIT after it has something to wait for.
--
-- After a failover the position may be gone although it was appended: nobody may acknowledge it then.
--
-- KEYS: stream, head
-- ARGV: log_id, epoch, seq, digest
local head = redis.call('HMGET', KEYS[2], 'log_id', 'epoch', 'seq', 'digest')
if head[1] ~= ARGV[1] or tonumber(head[2]) < tonumber(ARGV[2]) then return 0 end
if head[3] ~= ARGV[3] then
  local found = redis.call('XRANGE', KEYS[1], ARGV[3] .. '-0', ARGV[3] .. '-0')[1]
  if not found or found[2][6] ~= ARGV[4] then return 0 end
elseif head[4] ~= ARGV[4] then
  return 0
end
-- HDEL is allowed when Redis is full, and a script that has written may go on to write.
redis.call('HDEL', KEYS[2], 'confirmations')
redis.call('HINCRBY', KEYS[2], 'confirmations', 1)
return 1
