-- serve: a worker says that it lives and takes jobs from this queue.
--
-- KEYS[1] open   ARGV[1] ttl_ms
-- Returns 1.
-- Atomic only because it is a script: the time is Redis', and a plain SET would be refused where memory is full.

redis.call('ZREM', QUEUE.open, '') -- as in look_again
redis.call('SET', QUEUE.served, digits(now), 'PX', ARGV[1])
return 1
