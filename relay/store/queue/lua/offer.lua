-- offer: a worker says what it can make, for a while, and takes back what it said before.
--
-- KEYS[1] the offers   ARGV[1] ttl_ms   ARGV[2] max_offers   ARGV[3] how many offers   ARGV[4…] these, then those taken back
-- Returns the offers that stand; with none to make or to take back it only asks.
-- Atomic so that what has run out is gone before anybody reads it.

local first_back = 4 + tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', digits(now))
for index = first_back, #ARGV do redis.call('ZREM', KEYS[1], ARGV[index]) end
for index = 4, first_back - 1 do redis.call('ZADD', KEYS[1], digits(now + tonumber(ARGV[1])), ARGV[index]) end
if first_back > 4 then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -tonumber(ARGV[2]) - 1)
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return redis.call('ZRANGE', KEYS[1], 0, -1)
