-- refuse: make it final that a generation found no room in its session. Gateway, worker and reaper admit the same job:
-- who hears `full` drops it, and nobody may admit it after that.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] max_marks
-- ARGV[6] mark_ms: for how long; whoever else has the job admits it sooner
-- Returns {'refused'}; {'known'} if somebody has admitted it meanwhile: then it stands.
-- Atomic because an answer may end, and somebody admit it, at the same moment.

if redis.call('EXISTS', of.state(ARGV[4])) == 1 then return { 'known' } end
redis.call('ZREMRANGEBYSCORE', KEY.refused, '-inf', digits(now)) -- goes through where memory is full (prelude.lua)
redis.call('ZADD', KEY.refused, digits(now + tonumber(ARGV[6])), ARGV[4])
redis.call('ZREMRANGEBYRANK', KEY.refused, 0, -tonumber(ARGV[5]) - 1)
redis.call('PEXPIRE', KEY.refused, ARGV[6])
return { 'refused' }
