-- reap: end a generation that nobody will end: never claimed in time, or its workers were lost too often.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] the fence that the reaper saw
-- ARGV[6] further members of the event, JSON without braces (its error)   ARGV[7] why it is dead, or ''
-- Returns {'unknown'}, {'ended'}, {'alive'} (claimed since, or its lease lives), {'reaped'}.
-- Atomic because a worker may claim it at the same moment; then the claim wins.

local key = of.state(ARGV[4])
local state = redis.call('HMGET', key, 'state', 'fence', 'lease')
if not state[1] or redis.call('EXISTS', KEY.meta) == 0 then return { 'unknown' } end
if state[1] == 'ended' then return { 'ended' } end
if state[2] ~= ARGV[5] or (tonumber(state[3]) or 0) > now then return { 'alive' } end
end_generation(ARGV[4], 'failed', ARGV[6])
redis.call('HINCRBY', key, 'fence', 1)
-- Whoever tidies the queue up may be somebody else, and later: then the session has to say that there is a letter to write.
if ARGV[7] ~= '' then redis.call('HSET', key, 'dead', ARGV[7]) end
publish()
return { 'reaped' }
