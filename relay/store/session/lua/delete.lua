-- delete: end what runs, then forget the whole session. A mark stays for a while, so that a late worker, job or
-- follower cannot bring it back.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] mark_ms   ARGV[5] max_marks
-- ARGV[6…] further marks: epochs and generations that the caller has shown and Redis may have lost
-- Returns {'unknown'}, {'gone'} (deleted before), or {'deleted', generation, 'running', owner or '', queue or '', …} of
-- those that had not ended: their workers are to be told, their queues to be tidied; and {…, generation, 'dead', '',
-- queue, …} of those whose question lies in the dead letters.
-- Atomic because nobody may see half a session, and no append may fall between the ends and the deletion.

local epoch = redis.call('HGET', KEY.meta, 'epoch')
if not epoch and #ARGV < 6 and redis.call('EXISTS', KEY.generations) == 0 then
  return { redis.call('EXISTS', KEY.deleted) == 1 and 'gone' or 'unknown' }
end
local lost = not epoch -- Redis has lost meta: what is left goes, and nobody is to hear of an end
epoch = epoch or '-'

local reply, marks = { 'deleted' }, { 'e ' .. epoch, unpack(ARGV, 6) }
for _, generation in ipairs(redis.call('ZRANGE', KEY.active, 0, -1)) do
  local state = redis.call('HMGET', of.state(generation), 'owner', 'queue', 'state')
  if not lost and state[3] then end_generation(generation, 'stopped', '') end
  for _, part in ipairs({ generation, 'running', state[1] or '', state[2] or '' }) do reply[#reply + 1] = part end
end
for _, generation in ipairs(redis.call('ZRANGE', KEY.generations, 0, -1)) do
  marks[#marks + 1] = 'g ' .. generation
  local state = redis.call('HMGET', of.state(generation), 'dead', 'queue')
  if state[1] then
    for _, part in ipairs({ generation, 'dead', '', state[2] or '' }) do reply[#reply + 1] = part end
  end
  redis.call('UNLINK', of.state(generation), of.text(generation), of.reasoning(generation), of.data(generation))
end
local asked = redis.call('HKEYS', KEY.requests)
redis.call('UNLINK', KEY.meta, KEY.log, KEY.generations, KEY.active, KEY.transcript, KEY.requests, KEY.order)

redis.call('ZREMRANGEBYSCORE', KEY.deleted, '-inf', digits(now))
-- A device that returns must not ask again what went with the session. These marks are the first to go: a little older.
for _, id in ipairs(asked) do redis.call('ZADD', KEY.deleted, digits(now + tonumber(ARGV[4]) - 1), 'r ' .. id) end
for _, mark in ipairs(marks) do redis.call('ZADD', KEY.deleted, digits(now + tonumber(ARGV[4])), mark) end
-- Nor may they take the place of an earlier life's: without those, a late worker would bring it back.
local over = redis.call('ZCARD', KEY.deleted) - tonumber(ARGV[5])
for _, mark in ipairs(over > 0 and redis.call('ZRANGE', KEY.deleted, 0, -1) or {}) do
  if over > 0 and string.sub(mark, 1, 2) == 'r ' then over = over - redis.call('ZREM', KEY.deleted, mark) end
end
redis.call('ZREMRANGEBYRANK', KEY.deleted, 0, -tonumber(ARGV[5]) - 1)
redis.call('PEXPIRE', KEY.deleted, ARGV[4])

publish(epoch)
redis.call(publish_verb, KEY.events, epoch .. ' 0 ') -- seq 0: no event, a reason to look
return reply
