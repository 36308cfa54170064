-- append: write one event of a generation into its session's log, exactly once, and only for the holder of its fence.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua
-- ARGV[4] generation   ARGV[5] fence   ARGV[6] n: 1, 2, 3 … within a claim, one in flight   ARGV[7] lease_ms
-- ARGV[8] kind: status, tokens, reasoning, data, restart   ARGV[9] body of the event
-- ARGV[10] tokens, reasoning, data: index; restart: the new attempt   ARGV[11] count   ARGV[12] text; status: the state
-- ARGV[13] tokens: bytes of the attempt's text with this batch   ARGV[14] its running crc32
-- Returns {'written', seq, epoch}; {'repeated', seq, epoch} if it is in the log already; {'stale'}, {'ended'},
-- {'unknown'}; {'behind', stored} if the log holds less than what comes before this append: Redis lost something.
-- Atomic because number, index, log, text and lease must agree at every moment, whatever dies next.

local generation, n, kind, body = ARGV[4], tonumber(ARGV[6]), ARGV[8], ARGV[9]
local key = of.state(generation)
local refusal, epoch = refuse(generation, ARGV[5], true)
if refusal then return refusal end

local counter = ({ tokens = 'count', reasoning = 'reasoned', data = 'data' })[kind]
local state = redis.call('HMGET', key, 'n', 'reply', counter or 'n')
local done = tonumber(state[1])
if n <= done then return { 'repeated', state[2] or '0', epoch } end
if n > done + 1 then return { 'behind', state[1] } end

local lease = digits(now + tonumber(ARGV[7]))
if counter then
  local index, count = tonumber(ARGV[10]), tonumber(ARGV[11])
  local stored = tonumber(state[3]) or 0
  if index > stored then return { 'behind', digits(stored) } end
  if index < stored then
    -- The same tokens under another number: a batch that had been written, sent again token by token.
    redis.call('HSET', key, 'n', n, 'lease', lease)
    return { 'repeated', state[2] or '0', epoch }
  end
  local text = kind == 'tokens' and of.text(generation) or kind == 'reasoning' and of.reasoning(generation)
  if kind == 'tokens' and redis.call('STRLEN', text) + #ARGV[12] ~= tonumber(ARGV[13]) then
    return { 'behind', '0' } -- count and text disagree: Redis has lost the text alone
  end
  if text and redis.call('APPEND', text, ARGV[12]) == #ARGV[12] then created[#created + 1] = text end
  redis.call('HSET', key, counter, digits(stored + count), 'shown', '1')
  if kind == 'tokens' then
    redis.call('HSET', key, 'state', 'streaming', 'bytes', ARGV[13], 'crc', ARGV[14])
    redis.call('HSETNX', key, 'first', digits(now))
  end
  if kind == 'data' then
    local data = of.data(generation)
    if stored == 0 then redis.call('DEL', data) end -- anything there belongs to a state that Redis has lost
    local length = redis.call('RPUSH', data, (redis.call('HGET', key, 'bytes') or '0') .. ' ' .. body)
    if length == 1 then created[#created + 1] = data end
  end
elseif kind == 'status' then
  redis.call('HSET', key, 'state', ARGV[12])
elseif kind == 'restart' then
  redis.call('HSET', key, 'attempt', ARGV[10], 'state', 'retrying', 'count', 0, 'reasoned', 0, 'data', 0,
    'bytes', 0, 'crc', 0, 'shown', '0')
  redis.call('HDEL', key, 'mark')
  redis.call('DEL', of.text(generation), of.reasoning(generation), of.data(generation))
end

local seq = write(generation, body)
redis.call('HSET', key, 'n', n, 'reply', seq, 'lease', lease)
keep()
publish(epoch)
return { 'written', seq, epoch }
