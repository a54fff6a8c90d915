-- Returns the head, the floor, the archive and a run of entries, all at one instant.
--
-- Entries are read one by one, because a page is limited in bytes too, and XRANGE can limit only
-- their number.
--
-- KEYS: stream, head
-- ARGV: from_seq, max_entries, max_bytes
local head = redis.call('HMGET', KEYS[2], 'log_id', 'seq', 'digest', 'epoch', 'archive', 'forgotten_seq',
  'witnessed_epoch', 'witnessed_seq', 'witnessed_digest')
if not head[1] then return false end

local floor, before = string.format('%d', head[2] + 1), head[3]
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if first then floor, before = string.match(first[1], '^%d+'), first[2][4] end

local entries, bytes = {}, 0
local from, last = tonumber(ARGV[1]), tonumber(head[2])
if from + ARGV[2] - 1 < last then last = from + ARGV[2] - 1 end
for seq = from, last do
  local id = string.format('%d-0', seq)
  local found = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not found then break end
  local fields = found[2]  -- payload, _, prev, _, digest, _
  bytes = bytes + #fields[2]
  if bytes > tonumber(ARGV[3]) and #entries > 0 then break end
  entries[#entries + 1] = {fields[2], fields[4], fields[6]}
end
return {head[1], head[2], head[3], head[4], floor, before, head[5] or '', head[6] or '', entries,
  head[7], head[8], head[9]}
