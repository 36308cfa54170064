-- offer: a worker says what it can make, for a while.
--
-- KEYS[1] the offers   ARGV[1] offer   ARGV[2] ttl_ms   ARGV[3] max_offers
-- Returns the offers that stand, workers of one kind sharing one; ARGV[1] = '' only asks.
-- Atomic so that what has run out is gone before anybody reads it.

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', digits(now))
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], digits(now + tonumber(ARGV[2])), ARGV[1])
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -tonumber(ARGV[3]) - 1)
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return redis.call('ZRANGE', KEYS[1], 0, -1)
