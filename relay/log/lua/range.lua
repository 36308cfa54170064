-- range: what follows a seq, a page at a time.
--
-- KEYS[1] meta   ARGV[1..3] see session.lua   ARGV[4] first seq wanted   ARGV[5] last, or '+'
-- ARGV[6] max_bytes of bodies in a page (one entry at least; 0: none, only the head)
-- Returns {} if the session does not exist, else {epoch, head, floor, {seq, body, seq, body …}}.
-- Atomic so that head and entries belong to one moment of one epoch.

local meta = redis.call('HMGET', KEY.meta, 'epoch', 'seq', 'floor')
if not meta[1] then return {} end
local room, page, from = tonumber(ARGV[6]), {}, ARGV[4]
local upto = ARGV[5] == '+' and '+' or ARGV[5] .. '-0'
while room > 0 do
  local entries = redis.call('XRANGE', KEY.log, from .. '-0', upto, 'COUNT', 200)
  for _, entry in ipairs(entries) do
    local seq = string.match(entry[1], '^(%d+)')
    local body = entry[2][4]
    if #page > 0 and #body > room then return { meta[1], meta[2], meta[3], page } end
    page[#page + 1] = seq
    page[#page + 1] = body
    room = room - #body
    from = digits(tonumber(seq) + 1)
  end
  if #entries < 200 then break end
end
return { meta[1], meta[2], meta[3], page }
