-- revoked: what was revoked at a moment or later, and how many revocations count.
--
-- KEYS[1] the revocations   ARGV[1] since_ms   ARGV[2] keep_ms   ARGV[3] page
-- Returns {now_ms, how many are not older than keep_ms, {sub, ms, …}}: at most a page, the oldest first.
-- Atomic because the count is compared with what is read.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function digits(number) return string.format('%.0f', number) end

local count = redis.call('ZCOUNT', KEYS[1], digits(now - tonumber(ARGV[2])), '+inf')
local rows = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
return { digits(now), count, rows }
