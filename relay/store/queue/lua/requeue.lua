-- requeue: make sure that a job without a living worker has an entry that a worker will read.
--
-- KEYS[1] open   ARGV[1] job name   ARGV[2] idle_ms: an entry delivered longer ago than this is free again
-- ARGV[3] ttl_ms of the queue's keys
-- Returns 'waiting' (its entry has not been read), 'held' (read a moment ago), 'requeued' or 'gone' (the job is done).
-- Atomic because the new entry must replace the old one in one step.

local body = redis.call('HGET', QUEUE.jobs, ARGV[1])
if not body then
  redis.call('ZREM', QUEUE.open, ARGV[1])
  return 'gone'
end
local priority, id = entry_of(ARGV[1])
if id and #redis.call('XRANGE', QUEUE[priority], id, id) > 0 then
  local pending = tolerant('XPENDING', QUEUE[priority], GROUP, id, id, 1)
  if pending.err or #pending == 0 then return 'waiting' end
  if pending[1][3] < tonumber(ARGV[2]) then return 'held' end
  drop_entry(priority, id)
end
add_entry(ARGV[1], priority or 'normal', ARGV[3])
return 'requeued'
