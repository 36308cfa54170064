-- done: a job's generation has ended; nothing of it stays in the queue but a row for its trimming.
--
-- KEYS[1] open   ARGV[1] job name   ARGV[2] trim_ms: when its log is to be trimmed   ARGV[3] ttl_ms   ARGV[4] max_trims
-- Returns 1 if there was anything to remove. Harmless when repeated.
-- Atomic because entry, job and row go together: what is left of them would be looked at for ever.

local priority, id = entry_of(ARGV[1])
if id then drop_entry(priority, id) end
redis.call('HDEL', QUEUE.entries, ARGV[1])
redis.call('HDEL', QUEUE.jobs, ARGV[1])
local removed = redis.call('ZREM', QUEUE.open, ARGV[1])
if removed == 1 and redis.call('ZCARD', QUEUE.trims) < tonumber(ARGV[4]) then
  redis.call('ZADD', QUEUE.trims, digits(now + tonumber(ARGV[2])), ARGV[1])
  redis.call('PEXPIRE', QUEUE.trims, ARGV[3])
end
return removed
