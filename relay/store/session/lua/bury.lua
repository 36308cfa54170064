-- bury: end a generation that Redis has lost, and that nobody has brought back in time or somebody has stopped.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] its attempt, as last seen
-- ARGV[6] further members of the event, JSON without braces (its error)   ARGV[7] epoch for a new
-- session   ARGV[8] reason   ARGV[9] whose the session was, '' if nobody's
-- Returns {'buried'}; {'known'} if it exists, running or ended; {'deleted'} if it was deleted with its session, or the
-- session is somebody else's now.
-- Atomic because its worker may rebuild it at the same moment; then the rebuild wins.

local key = of.state(ARGV[4])
if was_deleted('g ' .. ARGV[4]) then return { 'deleted' } end
if redis.call('EXISTS', KEY.meta) == 1 and redis.call('EXISTS', key) == 1 then return { 'known' } end
local _, whose = ensure_session(ARGV[7], ARGV[4], ARGV[9])
if whose ~= ARGV[9] then return { 'deleted' } end
local place = redis.call('ZSCORE', KEY.generations, ARGV[4]) or redis.call('HGET', KEY.meta, 'seq') + 1
new_generation(ARGV[4], place, { 'attempt', ARGV[5], 'fence', digits(now * 1000) })
end_generation(ARGV[4], ARGV[8], ARGV[6])
keep({ KEY.log, KEY.generations, key })
publish()
return { 'buried' }
