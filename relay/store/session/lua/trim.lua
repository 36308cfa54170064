-- trim: merge the batches of an ended generation in the log, a page at a time. The text is kept once, in its own key.
-- Only the first entry of each piece stays, and `range` returns it as the whole piece. What a restart has voided is
-- removed. `message`, `data`, `restart` and `end` do not change, and no piece reaches across `data`.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] page: entries read in one go
-- ARGV[6] piece_bytes: encoded events merged into one piece   ARGV[7] page_bytes: bodies read in one go
-- ARGV[8] max_pieces of a generation: beyond them batches are not merged
-- Returns {'done'} or {'more'}. An unknown or running generation is done.
-- Atomic because pieces, deleted entries and the log version (a cursor among them is no longer honoured) must agree.

local generation, page, piece_bytes, page_bytes = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local key = of.state(generation)
local state = redis.call('HMGET', key, 'last', 'attempt', 'trimmed', 'pieces', 'text_at', 'reasoning_at')
local first = redis.call('ZSCORE', KEY.generations, generation)
if not state[1] or not first or redis.call('EXISTS', KEY.meta) == 0 then return { 'done' } end
local last, attempt = tonumber(state[1]), tonumber(state[2])
local from = state[3] and tonumber(state[3]) + 1 or tonumber(first)
local at = { tokens = tonumber(state[5] or 0), reasoning = tonumber(state[6] or 0) }
local written = state[4] or ''
local _, known = string.gsub(written, '\n', '')
local open, pieces, begins, dropped = {}, {}, nil, nil -- between which seqs entries were merged or dropped

redis.call('HDEL', key, 'trimmed') -- passes when memory is full (prelude.lua): trimming frees memory

local function drop(entry, seq, beginning)
  redis.call('XDEL', KEY.log, entry[1])
  begins, dropped = math.min(begins or beginning, beginning), seq
end

-- Whether this batch may join that piece; the first one that joins makes it a piece.
local function joins(piece, body)
  if not piece or piece.encoded + #body > piece_bytes then return false end
  if not piece.merged then
    if known + #pieces >= tonumber(ARGV[8]) then return false end
    piece.merged, pieces[#pieces + 1] = true, piece
  end
  return true
end

local function batch(entry, seq, kind)
  local event, body = cjson.decode(entry[2][4]), entry[2][4]
  local piece = open[kind]
  if event.attempt < attempt then
    drop(entry, seq, seq)
    return
  end
  if joins(piece, body) then
    piece.count, piece.bytes = piece.count + event.count, piece.bytes + #event.text
    piece.encoded = piece.encoded + #body
    drop(entry, seq, piece.seq)
  else
    open[kind] = { seq = seq, kind = kind, index = event.index, count = event.count, at = at[kind], bytes = #event.text, encoded = #body }
  end
  at[kind] = at[kind] + #event.text
end

local reached, seen, bytes = from - 1, 0, 0
while reached < last and seen < page and bytes < page_bytes do
  local wanted = math.min(20, page - seen) -- as an entry may have 128 KiB
  local entries = redis.call('XRANGE', KEY.log, digits(reached + 1) .. '-0', digits(last) .. '-0', 'COUNT', wanted)
  for _, entry in ipairs(entries) do
    reached = tonumber(string.match(entry[1], '^(%d+)'))
    seen, bytes = seen + 1, bytes + #entry[2][4]
    local kind = entry[2][2] == generation and string.match(entry[2][4], '^{"type":"(%a+)"')
    if kind == 'data' then
      open = {}
    elseif kind == 'tokens' or kind == 'reasoning' then
      batch(entry, reached, kind)
    end
  end
  if #entries < wanted then reached = last end
end

for _, piece in ipairs(pieces) do
  written = written .. piece.kind
  for _, number in ipairs({ piece.seq, piece.index, piece.count, piece.at, piece.bytes }) do
    written = written .. ' ' .. digits(number)
  end
  written = written .. '\n'
end
redis.call('HSET', key, 'trimmed', digits(reached), 'pieces', written, 'text_at', digits(at.tokens), 'reasoning_at', digits(at.reasoning))
if dropped then
  changed(generation, begins, dropped)
  redis.call(publish_verb, KEY.events, redis.call('HGET', KEY.meta, 'epoch') .. ' 0 ') -- seq 0: no event, a reason to sync
end
return { reached < last and 'more' or 'done' }
