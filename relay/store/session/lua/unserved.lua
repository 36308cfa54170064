-- unserved: tell a session that no living worker serves the queue in which a generation waits; once per generation.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] body of `status queued` that says so
-- Returns {'unknown'}; {'ended'}; {'claimed'} if a worker has had it; {'told'} if it was told before; {'written'}.
-- Atomic because a worker may claim it, or somebody stop it, at the same moment, and several reapers find it at once.

local key = of.state(ARGV[4])
local state = redis.call('HMGET', key, 'state', 'claimed', 'unserved')
if not state[1] or redis.call('EXISTS', KEY.meta) == 0 then return { 'unknown' } end
if state[1] == 'ended' then return { 'ended' } end
if state[1] ~= 'queued' or state[2] then return { 'claimed' } end
if state[3] then return { 'told' } end
-- As the first write it lets the rest through where memory is full (prelude.lua). A reaper that is refused here would end
-- nothing any more, and one small event for each accepted generation is bounded.
redis.call('HDEL', key, 'lease')
redis.call('HSET', key, 'unserved', '1')
write(ARGV[4], ARGV[5])
keep()
publish()
return { 'written' }
