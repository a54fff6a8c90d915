-- Appends one entry, wholly or not at all.
--
-- The caller computes the chain (Redis's Lua has no SHA-256) from the head that it knows, so the
-- script compares that head with the real one. Scripts do not roll back: everything is checked
-- first, and the stream entry, the one write that can be refused, is written first.
--
-- FENCED comes before the known key on purpose: a writer that was replaced must learn it from
-- its next call, whatever it asks. The new writer retries under its own epoch and gets DUP.
-- DUP comes before TOOBIG, so that what was accepted once is never refused on a retry.
--
-- KEYS: stream, head, requests
-- ARGV: log_id, epoch, request_id, content_digest, head_seq, head_digest,
--       payload, new_seq, new_digest, max_payload_bytes
local head = redis.call('HMGET', KEYS[2], 'log_id', 'epoch', 'seq', 'digest')
if head[1] ~= ARGV[1] then return {'FOREIGN'} end
if head[2] ~= ARGV[2] then return {'FENCED', head[2]} end

local known = redis.call('HGET', KEYS[3], ARGV[3])
if known then
  local seq, digest = string.match(known, '^(%d+):(.*)$')
  if digest ~= ARGV[4] then return {'CONFLICT', seq} end
  -- A write, so that a WAIT for replicas after this answer means something. It may fail for want
  -- of memory; the answer is right without it.
  redis.pcall('HINCRBY', KEYS[2], 'duplicates', 1)
  return {'DUP', seq}
end

if #ARGV[7] > tonumber(ARGV[10]) then return {'TOOBIG', tostring(#ARGV[7])} end
if head[3] ~= ARGV[5] or head[4] ~= ARGV[6] then return {'MOVED', head[3]} end

redis.call('XADD', KEYS[1], ARGV[8] .. '-0', 'payload', ARGV[7], 'prev', ARGV[6], 'digest', ARGV[9])
redis.call('HSET', KEYS[2], 'seq', ARGV[8], 'digest', ARGV[9])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[8] .. ':' .. ARGV[4])
return {'OK', ARGV[8]}
