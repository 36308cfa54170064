-- discard: take a letter out of the dead letters.
--
-- KEYS[1] open   ARGV[1] job name   ARGV[2] its row
-- Returns 1 if it was there.
-- Atomic because a row without its job could never be retried, and a job without its row would never be seen.

redis.call('HDEL', QUEUE.letters, ARGV[1])
return redis.call('ZREM', QUEUE.dead, ARGV[2])
