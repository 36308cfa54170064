-- stop: end a generation at once, whatever its worker does: there may be none, or a silent, dead or replaced one.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] whose the session must be, '' if anybody's
-- Returns {'unknown'}, {'ended'}, or {'stopped', owner or '', queue}; the caller notifies the owner and cleans up the
-- queue.
-- Atomic because the raised fence and the written end are one decision: nothing can follow that end. And the session may
-- become somebody else's.

local key = of.state(ARGV[4])
local state = redis.call('HMGET', key, 'state', 'owner', 'queue')
if not state[1] or redis.call('EXISTS', KEY.meta) == 0 or is_hidden(ARGV[5]) then return { 'unknown' } end
if state[1] == 'ended' then return { 'ended' } end
end_generation(ARGV[4], 'stopped', '')
redis.call('HINCRBY', key, 'fence', 1)
publish()
return { 'stopped', state[2] or '', state[3] or '' }
