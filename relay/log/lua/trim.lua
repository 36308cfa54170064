-- trim: merge the batches of an ended generation in the log, a page at a time. The text is kept once, in its own key;
-- of the entries only the first of each piece stays, and `range` reads it as the whole piece. What a restart has voided
-- goes. `message`, `data`, `restart` and `end` stay as they are.
--
-- KEYS[1] meta   ARGV[1..3] see session.lua   ARGV[4] generation   ARGV[5] page: entries looked at in one go
-- ARGV[6] piece_bytes: encoded events merged into one piece
-- Returns {'done'} or {'more'}. An unknown or running generation is done.
-- Atomic because pieces, deleted entries and the floor (no cursor among them is honoured any more) must agree.

local key = of.state(ARGV[4])
local state = redis.call('HMGET', key, 'last', 'attempt', 'trimmed', 'pieces', 'text_at', 'reasoning_at')
local first = redis.call('ZSCORE', KEY.generations, ARGV[4])
if not state[1] or not first then return { 'done' } end
local last, attempt = tonumber(state[1]), tonumber(state[2])
local from = state[3] and tonumber(state[3]) + 1 or tonumber(first)
local at = { tokens = tonumber(state[5] or 0), reasoning = tonumber(state[6] or 0) }
local open, pieces, dropped, reached = {}, {}, nil, last

redis.call('HDEL', key, 'trimmed') -- goes through where memory is full (session.lua): trimming frees it

local function drop(entry)
  redis.call('XDEL', KEY.log, entry[1])
  dropped = reached
end

local entries = redis.call('XRANGE', KEY.log, digits(from) .. '-0', digits(last) .. '-0', 'COUNT', ARGV[5])
for _, entry in ipairs(entries) do
  reached = tonumber(string.match(entry[1], '^(%d+)'))
  local body = entry[2][4]
  local event = entry[2][2] == ARGV[4] and cjson.decode(body) or {}
  if event.type == 'tokens' or event.type == 'reasoning' then
    local kind, piece = event.type, open[event.type]
    if event.attempt < attempt then
      drop(entry)
    elseif piece and piece.encoded + #body <= tonumber(ARGV[6]) then
      piece.count, piece.bytes = piece.count + event.count, piece.bytes + #event.text
      piece.encoded = piece.encoded + #body
      at[kind] = at[kind] + #event.text
      drop(entry)
    else
      piece = { seq = reached, kind = kind, index = event.index, count = event.count, at = at[kind], bytes = #event.text, encoded = #body }
      at[kind] = at[kind] + #event.text
      open[kind], pieces[#pieces + 1] = piece, piece
    end
  end
end

local written = state[4] or ''
for _, piece in ipairs(pieces) do
  written = written .. piece.kind
  for _, number in ipairs({ piece.seq, piece.index, piece.count, piece.at, piece.bytes }) do
    written = written .. ' ' .. digits(number)
  end
  written = written .. '\n'
end
if #entries < tonumber(ARGV[5]) then reached = last end
redis.call('HSET', key, 'trimmed', digits(reached), 'pieces', written, 'text_at', digits(at.tokens), 'reasoning_at', digits(at.reasoning))
if dropped and dropped > tonumber(redis.call('HGET', KEY.meta, 'floor')) then
  redis.call('HSET', KEY.meta, 'floor', digits(dropped))
end
return { reached < last and 'more' or 'done' }
