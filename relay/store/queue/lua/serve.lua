-- serve: the heartbeat of a queue: a worker says that it lives and takes jobs from it.
--
-- KEYS[1] open   ARGV[1] ttl_ms
-- Returns 1.
-- A script, though it needs no atomicity: the time is Redis', and a plain SET would be refused when memory is full.

redis.call('ZREM', QUEUE.open, '') -- as in look_again
redis.call('SET', QUEUE.served, digits(now), 'PX', ARGV[1])
return 1
