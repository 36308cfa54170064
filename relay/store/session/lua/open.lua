-- open: the state of a session with which a follower begins.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] epoch for a new session; '' = do not make one
-- ARGV[5] idle_ttl_ms: how long a session without events is remembered
-- ARGV[6] the epoch that the caller followed, '' if none   ARGV[7] whose the session is if this makes it, '' if nobody's
-- Returns {'deleted'} if the session was deleted in that epoch; {} if it does not exist, otherwise
-- {epoch, head, floor, {generation, attempt, state, …} of those not ended, trims, whose it is or ''}.
-- Atomic so that head and active generations fit together, and two callers get one epoch.

if ARGV[6] ~= '' and was_deleted('e ' .. ARGV[6]) then return { 'deleted' } end
if ARGV[4] ~= '' then
  ensure_session(ARGV[4], nil, ARGV[7])
elseif redis.call('EXISTS', KEY.meta) == 0 then
  return {}
end
local meta = redis.call('HMGET', KEY.meta, 'epoch', 'seq', 'floor', 'trims', 'sub')
if meta[2] == '0' and ARGV[4] ~= '' then redis.call('PEXPIRE', KEY.meta, ARGV[5]) end
local active = {}
for _, generation in ipairs(redis.call('ZRANGE', KEY.active, 0, -1)) do
  local state = redis.call('HMGET', of.state(generation), 'attempt', 'state')
  if state[1] then
    active[#active + 1] = generation
    active[#active + 1] = state[1]
    active[#active + 1] = state[2]
  end
end
return { meta[1], meta[2], meta[3], active, meta[4] or '0', meta[5] or '' }
