-- Tells the log's other services what one service's witness covers and this Redis contradicts.
--
-- KEYS: head
-- ARGV: log_id, epoch, seq, digest
local head = redis.call('HMGET', KEYS[1], 'log_id', 'witnessed_seq')
if head[1] ~= ARGV[1] then return end
if head[2] and tonumber(head[2]) > tonumber(ARGV[3]) then return end
redis.call('HSET', KEYS[1], 'witnessed_epoch', ARGV[2], 'witnessed_seq', ARGV[3], 'witnessed_digest', ARGV[4])
