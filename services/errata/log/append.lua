-- Appends one entry atomically.
--
-- The caller computes the chain from its known head, because Lua in Redis has no SHA-256; the script
-- compares that head with the real one. Scripts do not roll back, so all checks come first, then the
-- stream entry, which is the only write that Redis can refuse.
--
-- FENCED is checked before the known key, so that a replaced writer learns of it from its next call,
-- whatever it sends. The new writer retries under its own epoch and gets DUP.
-- DUP is checked before TOOBIG, so that a retry of an accepted request is never refused.
-- REFUSED comes last: the caller found that the entry contradicts the entries up to its head, which is
-- no reason if the head is another one.
--
-- Requested edits are refused (RESERVED) while Redis still has memory for what must always be possible:
-- reverts, epochs, and the outcomes of edits that were accepted before. Where INFO is forbidden, Redis'
-- own limit is the only one.
--
-- KEYS: stream, head, requests
-- ARGV: log_id, epoch, request_id, content_digest, head_seq, head_digest,
--       payload, new_seq, new_digest, max_payload_bytes, '1' if the caller refuses the entry,
--       reserve_bytes, digest of the last warning (warn.lua) that the caller looked into
local head = redis.call('HMGET', KEYS[2], 'log_id', 'epoch', 'seq', 'digest', 'witnessed_digest')
if head[1] ~= ARGV[1] then return {'FOREIGN'} end
if head[2] ~= ARGV[2] then return {'FENCED', head[2]} end

local known = redis.call('HGET', KEYS[3], ARGV[3])
if known then
  local seq, digest = string.match(known, '^(%d+):(.*)$')
  if digest ~= ARGV[4] then return {'CONFLICT', seq} end
  -- This write gives a WAIT after this answer something to wait for. It may fail if Redis is out of
  -- memory; the answer is correct without it.
  redis.pcall('HINCRBY', KEYS[2], 'duplicates', 1)
  return {'DUP', seq}
end

if #ARGV[7] > tonumber(ARGV[10]) then return {'TOOBIG', tostring(#ARGV[7])} end
if head[3] ~= ARGV[5] or head[4] ~= ARGV[6] or (head[5] or '') ~= ARGV[13] then
  return {'MOVED', head[3]}
end
if ARGV[11] == '1' then return {'REFUSED'} end

local wanted = tonumber(ARGV[12])
if wanted > 0 then
  local info = redis.pcall('INFO', 'memory')
  if type(info) == 'string' then
    local most = tonumber(string.match(info, '\nmaxmemory:(%d+)') or '0')
    local used = tonumber(string.match(info, '\nused_memory:(%d+)'))
      - tonumber(string.match(info, '\nmem_not_counted_for_evict:(%d+)') or '0')
    local left = most - math.min(wanted, math.floor(most / 4)) - used
    if most > 0 and left < #ARGV[7] then return {'RESERVED', tostring(most - used)} end
  end
end

redis.call('XADD', KEYS[1], ARGV[8] .. '-0', 'payload', ARGV[7], 'prev', ARGV[6], 'digest', ARGV[9])
redis.call('HSET', KEYS[2], 'seq', ARGV[8], 'digest', ARGV[9])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[8] .. ':' .. ARGV[4])
return {'OK', ARGV[8]}
