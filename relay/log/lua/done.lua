-- done: a job's generation has ended; nothing of it stays in the queue. Harmless when repeated.
--
-- KEYS[1] open   ARGV[1] job name
-- Returns 1 if there was anything to remove.
-- Atomic because entry, job and row go together: what is left of them would be looked at for ever.

local priority, id = entry_of(ARGV[1])
if id then drop_entry(priority, id) end
redis.call('HDEL', QUEUE.entries, ARGV[1])
redis.call('HDEL', QUEUE.jobs, ARGV[1])
return redis.call('ZREM', QUEUE.open, ARGV[1])
