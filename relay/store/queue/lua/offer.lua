-- offer: publish a worker's offers for a while, and withdraw earlier ones.
--
-- KEYS[1] the offers   ARGV[1] ttl_ms   ARGV[2] max_offers   ARGV[3] how many offers
-- ARGV[4…] these, then those to withdraw
-- Returns the offers in force; without any to publish or withdraw it only reads.
-- Atomic so that expired offers are gone before anybody reads them.

local first_withdrawn = 4 + tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', digits(now))
for index = first_withdrawn, #ARGV do redis.call('ZREM', KEYS[1], ARGV[index]) end
for index = 4, first_withdrawn - 1 do redis.call('ZADD', KEYS[1], digits(now + tonumber(ARGV[1])), ARGV[index]) end
if first_withdrawn > 4 then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -tonumber(ARGV[2]) - 1)
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return redis.call('ZRANGE', KEYS[1], 0, -1)
