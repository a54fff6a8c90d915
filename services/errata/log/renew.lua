-- Extends the active writer's lease, or ends it so that a standby need not wait.
--
-- KEYS: head, lease
-- ARGV: log_id, epoch, milliseconds from now on; 0 ends it
local head = redis.call('HMGET', KEYS[1], 'log_id', 'epoch')
if head[1] ~= ARGV[1] then return {'FOREIGN', '0'} end
if head[2] ~= ARGV[2] then return {'FENCED', head[2]} end
if tonumber(ARGV[3]) > 0 then
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
else
  redis.call('DEL', KEYS[2])
end
return {'OK', ARGV[2]}
