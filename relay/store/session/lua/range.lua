-- range: the entries from a seq on, a page at a time.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] first seq wanted   ARGV[5] last, or '+'
-- ARGV[6] max_bytes of bodies in a page (at least one entry; 0: none, only the head)
-- Returns {} if the session does not exist, otherwise {epoch, head, floor, {seq, body, seq, body …}, trims, whose it is
-- or '', and for each of the newest changes its trims, first and last seq (prelude.lua)}.
-- Atomic so that head and entries belong to one moment of one epoch.

local meta = redis.call('HMGET', KEY.meta, 'epoch', 'seq', 'floor', 'trims', 'sub')
if not meta[1] then return {} end
local room, page, from = tonumber(ARGV[6]), {}, ARGV[4]

-- Escapes exactly as the worker's encoder does, so that a piece is no larger than what it was merged from. (cjson would
-- escape slashes and DEL too.)
local short = { ['"'] = '\\"', ['\\'] = '\\\\', ['\n'] = '\\n', ['\r'] = '\\r', ['\t'] = '\\t', ['\b'] = '\\b', ['\f'] = '\\f' }
local function quoted(text)
  return '"' .. string.gsub(text, '[%c"\\]', function(char)
    if char == '\127' then return char end
    return short[char] or string.format('\\u%04x', string.byte(char))
  end) .. '"'
end

-- Questions of forgotten generations: seq → the same event, under the generation that it passed on to (admit.lua).
local passed_on
local function questions_passed_on()
  if passed_on then return passed_on end
  passed_on = {}
  local fields = redis.call('HGETALL', KEY.meta)
  for index = 1, #fields, 2 do
    local heir, seq = string.match(fields[index], '^question (.+)$'), fields[index + 1]
    if heir then
      passed_on[seq] = function(body)
        return string.match(body, '^(.*"generation":)"[^"]*"}$') .. '"' .. heir .. '"}'
      end
    end
  end
  return passed_on
end

-- Of a trimmed generation: seq → the event that its merged entries make (trim.lua). Of any other: empty.
local trimmed = {}
local function pieces_of(generation)
  if trimmed[generation] then return trimmed[generation] end
  local found = {}
  local state = redis.call('HMGET', of.state(generation), 'pieces', 'attempt')
  if not state[2] then return questions_passed_on() end
  for kind, seq, index, count, at, bytes in string.gmatch(state[1] or '', '(%a+) (%d+) (%d+) (%d+) (%d+) (%d+)\n') do
    found[seq] = function()
      local key = kind == 'tokens' and of.text(generation) or of.reasoning(generation)
      local text = redis.call('GETRANGE', key, at, at + bytes - 1)
      return '{"type":"' .. kind .. '","generation":"' .. generation .. '","attempt":' .. state[2]
        .. ',"index":' .. index .. ',"count":' .. count .. ',"text":' .. quoted(text) .. '}'
    end
  end
  trimmed[generation] = found
  return found
end

local function reply()
  local found = { meta[1], meta[2], meta[3], page, meta[4] or '0', meta[5] or '' }
  for _, change in ipairs(changes(meta[4] or 0)) do
    for index = 1, 3 do found[#found + 1] = digits(change[index]) end
  end
  return found
end

local upto = ARGV[5] == '+' and '+' or ARGV[5] .. '-0'
while room > 0 do
  local entries = redis.call('XRANGE', KEY.log, from .. '-0', upto, 'COUNT', 200)
  for _, entry in ipairs(entries) do
    local seq = string.match(entry[1], '^(%d+)')
    local piece = pieces_of(entry[2][2])[seq]
    local body = piece and piece(entry[2][4]) or entry[2][4]
    if #page > 0 and #body > room then return reply() end
    page[#page + 1] = seq
    page[#page + 1] = body
    room = room - #body
    from = digits(tonumber(seq) + 1)
  end
  if #entries < 200 then break end
end
return reply()
