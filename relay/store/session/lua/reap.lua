-- reap: end a generation that nobody else will end: it was not claimed in time, or lost too many workers.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] the fence that the reaper saw
-- ARGV[6] further members of the event, JSON without braces (its error)   ARGV[7] why it is dead, or ''
-- Returns {'unknown'}, {'ended'}, {'alive'} (claimed since, or its lease still runs), {'reaped'}.
-- Atomic because a worker may claim it at the same moment; then the claim wins.

local key = of.state(ARGV[4])
local state = redis.call('HMGET', key, 'state', 'fence', 'lease')
if not state[1] or redis.call('EXISTS', KEY.meta) == 0 then return { 'unknown' } end
if state[1] == 'ended' then return { 'ended' } end
if state[2] ~= ARGV[5] or (tonumber(state[3]) or 0) > now then return { 'alive' } end
end_generation(ARGV[4], 'failed', ARGV[6])
redis.call('HINCRBY', key, 'fence', 1)
-- Another process may finish the job later; only from the session can it then know that there is a letter to write.
if ARGV[7] ~= '' then redis.call('HSET', key, 'dead', ARGV[7]) end
publish()
return { 'reaped' }
