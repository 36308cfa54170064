-- refuse: make it final that a generation found no room in its session. Gateway, worker and reaper admit the same job:
-- the one that gets `full` drops it, and after that none may admit it.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] how many refusals are kept
-- ARGV[6] for how long, in ms; any other process that has the job admits it sooner
-- Returns {'refused'}; {'known'} if another process has admitted it meanwhile: then it stands.
-- Atomic because an answer may end at the same moment, and another process may then admit it.

if redis.call('EXISTS', of.state(ARGV[4])) == 1 then return { 'known' } end
redis.call('ZREMRANGEBYSCORE', KEY.refused, '-inf', digits(now)) -- passes when memory is full (prelude.lua)
redis.call('ZADD', KEY.refused, digits(now + tonumber(ARGV[6])), ARGV[4])
redis.call('ZREMRANGEBYRANK', KEY.refused, 0, -tonumber(ARGV[5]) - 1)
redis.call('PEXPIRE', KEY.refused, ARGV[6])
return { 'refused' }
