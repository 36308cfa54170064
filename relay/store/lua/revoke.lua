-- revoke: from now on, tokens of these that were issued before are refused.
--
-- KEYS[1] the revocations   ARGV[1] keep_ms   ARGV[2] max_revocations   ARGV[3…] pairs: sub, and since when (ms), or ''
-- Returns for each sub since when it is revoked (ms), or '' if there is no room.
-- Nothing is ever moved to an earlier moment, and nothing that is given to a later one than now.
-- Atomic because two must not both take the last free place.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function digits(number) return string.format('%.0f', number) end

-- The first write frees, so that this passes when memory is full (session/lua/prelude.lua).
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. digits(now - tonumber(ARGV[1])))
local count, since = redis.call('ZCARD', KEYS[1]), {}
for index = 3, #ARGV, 2 do
  local sub, given = ARGV[index], tonumber(ARGV[index + 1])
  local known = tonumber(redis.call('ZSCORE', KEYS[1], sub) or '')
  if not known and count >= tonumber(ARGV[2]) then
    since[#since + 1] = ''
  else
    local at = math.max(known or 0, math.min(given or now, now))
    redis.call('ZADD', KEYS[1], digits(at), sub)
    count = count + (known and 0 or 1)
    since[#since + 1] = digits(at)
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return since
