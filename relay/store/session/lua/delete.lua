-- delete: end what runs, then forget the whole session. Tombstones stay for a while, so that no late worker, job or
-- follower can bring it back.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] tombstone_ms   ARGV[5] max_tombstones
-- ARGV[6] whose the session must be, '' if anybody's
-- ARGV[7…] further tombstones: of epochs and generations that the caller has shown of it and Redis may have lost
-- Returns {'unknown'}, {'gone'} (deleted before; if ARGV[6] is given, it was theirs), or {'deleted', generation,
-- 'running', owner or '', queue or '', …} of those that had not ended: the caller notifies their workers and cleans up
-- their queues; and {…, generation, 'dead', '', queue, …} of those whose question is in the dead letters.
-- Atomic because nobody may see half a session, and no append may fall between the ends and the deletion.

local meta, sub = redis.call('HMGET', KEY.meta, 'epoch', 'sub'), ARGV[6]
local epoch, whose = meta[1], meta[2] or sub
-- What is left without meta may be anybody's: then only what the caller has shown says whose it was.
local may_be_deleted = epoch and not is_hidden(sub)
  or not epoch and (#ARGV > 6 or sub == '' and redis.call('EXISTS', KEY.generations) == 1)
if not may_be_deleted then
  local gone = not epoch and redis.call('EXISTS', KEY.deleted) == 1 and (sub == '' or was_deleted('o ' .. sub))
  return { gone and 'gone' or 'unknown' }
end
local lost = not epoch -- Redis has lost meta: delete what is left, and publish no end
epoch = epoch or '-'

local reply, tombstones = { 'deleted' }, { 'e ' .. epoch, unpack(ARGV, 7) }
if whose ~= '' then tombstones[#tombstones + 1] = 'o ' .. whose end
for _, generation in ipairs(redis.call('ZRANGE', KEY.active, 0, -1)) do
  local state = redis.call('HMGET', of.state(generation), 'owner', 'queue', 'state')
  if not lost and state[3] then end_generation(generation, 'stopped', '') end
  for _, part in ipairs({ generation, 'running', state[1] or '', state[2] or '' }) do reply[#reply + 1] = part end
end
for _, generation in ipairs(redis.call('ZRANGE', KEY.generations, 0, -1)) do
  tombstones[#tombstones + 1] = 'g ' .. generation
  local state = redis.call('HMGET', of.state(generation), 'dead', 'queue')
  if state[1] then
    for _, part in ipairs({ generation, 'dead', '', state[2] or '' }) do reply[#reply + 1] = part end
  end
  redis.call('UNLINK', of.state(generation), of.text(generation), of.reasoning(generation), of.data(generation))
end
local asked = redis.call('HKEYS', KEY.requests)
redis.call('UNLINK', KEY.meta, KEY.log, KEY.generations, KEY.active, KEY.transcript, KEY.requests, KEY.order)

redis.call('ZREMRANGEBYSCORE', KEY.deleted, '-inf', digits(now))
-- A device that returns must not ask a deleted question again. These tombstones are a little older: the first to go.
for _, id in ipairs(asked) do redis.call('ZADD', KEY.deleted, digits(now + tonumber(ARGV[4]) - 1), 'r ' .. id) end
for _, one in ipairs(tombstones) do redis.call('ZADD', KEY.deleted, digits(now + tonumber(ARGV[4])), one) end
-- They must not push out those of epochs and generations, or a late worker would bring a deleted session back.
local over = redis.call('ZCARD', KEY.deleted) - tonumber(ARGV[5])
for _, one in ipairs(over > 0 and redis.call('ZRANGE', KEY.deleted, 0, -1) or {}) do
  if over > 0 and string.sub(one, 1, 2) == 'r ' then over = over - redis.call('ZREM', KEY.deleted, one) end
end
redis.call('ZREMRANGEBYRANK', KEY.deleted, 0, -tonumber(ARGV[5]) - 1)
redis.call('PEXPIRE', KEY.deleted, ARGV[4])

publish(epoch)
redis.call(publish_verb, KEY.events, epoch .. ' 0 ') -- seq 0: no event, a reason to sync
return reply
