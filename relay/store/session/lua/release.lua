-- release: a worker that goes gives its generation back, so that another need not wait for the lease.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] fence
-- Returns {'released'}, {'stale'}, {'ended'}, {'unknown'}.
-- Atomic because only the holder of the fence may give back.

local refusal = refuse(ARGV[4], ARGV[5])
if refusal then return refusal end
if redis.call('HDEL', of.state(ARGV[4]), 'owner') == 1 then
  redis.call('HSET', of.state(ARGV[4]), 'lease', digits(now)) -- over as of now: how long nobody has had it
  redis.call('HINCRBY', of.state(ARGV[4]), 'handed', 1)
end
return { 'released' }
