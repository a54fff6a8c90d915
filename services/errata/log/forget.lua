-- Forgets the request ids of some archived entries. An id that a later entry uses again stays.
--
-- KEYS: head, requests
-- ARGV: log_id, position up to which ids were forgotten before ('' for none), and from now on,
--       then for each entry its request id and its seq
local head = redis.call('HMGET', KEYS[1], 'log_id', 'forgotten_seq')
if head[1] ~= ARGV[1] then return {'FOREIGN'} end
if (head[2] or '') ~= ARGV[2] then return {'MOVED'} end
local forgotten = 0
for index = 4, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[2], ARGV[index])
  if known and string.match(known, '^%d+') == ARGV[index + 1] then
    forgotten = forgotten + redis.call('HDEL', KEYS[2], ARGV[index])
  end
end
redis.pcall('HSET', KEYS[1], 'forgotten_seq', ARGV[3])
return {'OK', tostring(forgotten)}
