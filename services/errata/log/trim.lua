-- Makes the entries up to one position leave Redis, once an archive holds them.
--
-- Other log services may append or trim meanwhile: the archive that the new one continues, and the entry
-- where it ends, must still be the ones that the caller read. Appends after that entry do not matter.
--
-- XTRIM comes first: it frees memory, and after it Redis refuses no write of this script for want of memory.
--
-- KEYS: stream, head
-- ARGV: log_id, archive before ('' for none), seq, chain digest at seq, archive with all entries up to seq
local head = redis.call('HMGET', KEYS[2], 'log_id', 'archive')
if head[1] ~= ARGV[1] then return {'FOREIGN'} end
if (head[2] or '') ~= ARGV[2] then return {'MOVED'} end
local id = ARGV[3] .. '-0'
local last = redis.call('XRANGE', KEYS[1], id, id)[1]
if not last or last[2][6] ~= ARGV[4] then return {'MOVED'} end

redis.call('XTRIM', KEYS[1], 'MINID', '=', string.format('%d-0', ARGV[3] + 1))
redis.call('HSET', KEYS[2], 'archive', ARGV[5])
return {'OK'}
