-- Raises the epoch by one, which fences every earlier writer. Epochs do not expire.
--
-- KEYS: head
-- ARGV: log_id, writer
if redis.call('HGET', KEYS[1], 'log_id') ~= ARGV[1] then return {'FOREIGN'} end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'writer', ARGV[2])
return {'OK', tostring(epoch)}
