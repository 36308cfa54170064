-- unserved: say in a session's log that no living worker serves the queue of a waiting generation; once for each.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] body of `status queued` that says so
-- Returns {'unknown'}; {'ended'}; {'claimed'} if a worker has had it; {'told'} if the log says so already; {'written'}.
-- Atomic because at the same moment a worker may claim it or a client stop it, and several reapers may find it.

local key = of.state(ARGV[4])
local state = redis.call('HMGET', key, 'state', 'claimed', 'unserved')
if not state[1] or redis.call('EXISTS', KEY.meta) == 0 then return { 'unknown' } end
if state[1] == 'ended' then return { 'ended' } end
if state[1] ~= 'queued' or state[2] then return { 'claimed' } end
if state[3] then return { 'told' } end
-- As the first write it lets the script pass when memory is full (prelude.lua). If a reaper were refused here, it could
-- end nothing any more. One small event per accepted generation is bounded.
redis.call('HDEL', key, 'lease')
redis.call('HSET', key, 'unserved', '1')
write(ARGV[4], ARGV[5])
keep()
publish()
return { 'written' }
