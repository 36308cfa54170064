-- announce: put a queue on the list that every reaper walks.
--
-- KEYS[1] the list   ARGV[1] queue   ARGV[2] max_queues   ARGV[3] ttl_ms
-- Returns 1, or 0 if the list is full of others; names not announced for ttl_ms are dropped.
-- Atomic because two gateways must not both take the last free slot.

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. digits(now - tonumber(ARGV[3])))
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], digits(now), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
