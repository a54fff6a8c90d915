-- Raises the epoch by one, which fences every earlier writer. Epochs do not expire.
--
-- The lease does, by Redis' own clock. It only tells standby writers when to try: what a writer whose
-- lease has ended appends is refused because of its epoch, and only if another one was granted.
--
-- KEYS: head, lease
-- ARGV: log_id, writer, '1' to grant nothing while a lease runs, milliseconds of the new lease
if redis.call('HGET', KEYS[1], 'log_id') ~= ARGV[1] then return {'FOREIGN'} end
if ARGV[3] == '1' and redis.call('EXISTS', KEYS[2]) == 1 then return {'HELD', '0'} end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'writer', ARGV[2])
if tonumber(ARGV[4]) > 0 then
  redis.call('SET', KEYS[2], tostring(epoch), 'PX', ARGV[4])
else
  redis.call('DEL', KEYS[2])
end
return {'OK', tostring(epoch)}
