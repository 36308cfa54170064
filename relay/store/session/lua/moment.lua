-- moment: what a session holds at one moment, without the texts: a snapshot reads those later, one by one.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] limit: of the newest generations, and of the newest completed
-- ARGV[5] whose the session must be, '' if anybody's
-- Returns {} if there is no such session, otherwise {epoch, head, {generation …}, {completed generation …},
-- {generation, attempt, state, bytes of text, of reasoning, number of data, …} of those not ended}.
-- Atomic so that all of it agrees with the head. Within an epoch an attempt only grows, so these sizes later tell which
-- part of it belongs to this moment.

local meta = redis.call('HMGET', KEY.meta, 'epoch', 'seq')
if not meta[1] or is_hidden(ARGV[5]) then return {} end
local running = {}
for _, generation in ipairs(redis.call('ZRANGE', KEY.active, 0, -1)) do
  local state = redis.call('HMGET', of.state(generation), 'attempt', 'state', 'data')
  if state[1] then
    for _, part in ipairs({ generation, state[1], state[2], redis.call('STRLEN', of.text(generation)),
      redis.call('STRLEN', of.reasoning(generation)), state[3] or '0' }) do
      running[#running + 1] = part
    end
  end
end
return { meta[1], meta[2], redis.call('ZRANGE', KEY.generations, -ARGV[4], -1),
  redis.call('LRANGE', KEY.transcript, -ARGV[4], -1), running }
