-- release: a worker that shuts down gives up its claim, so that another need not wait for the lease to run out.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] fence
-- Returns {'released'}, {'stale'}, {'ended'}, {'unknown'}.
-- Atomic because only the holder of the fence may release.

local refusal = refuse(ARGV[4], ARGV[5])
if refusal then return refusal end
if redis.call('HDEL', of.state(ARGV[4]), 'owner') == 1 then
  redis.call('HSET', of.state(ARGV[4]), 'lease', digits(now)) -- since when no worker has had it
  redis.call('HINCRBY', of.state(ARGV[4]), 'handed', 1)
end
return { 'released' }
