-- renew: renew a worker's lease while it has nothing to append.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] fence   ARGV[6] lease_ms
-- ARGV[7] n of the last acknowledged append   ARGV[8] the resume handle of a background call, '' if there is none
-- Returns {'renewed'}; {'stale'}, {'ended'}: the worker must give up the generation; {'unknown'}, {'behind', n}: Redis
-- has lost something.
-- Atomic because a lease may be renewed only under the fence that holds it.

local refusal = refuse(ARGV[4], ARGV[5], true)
if refusal then return refusal end
local done = redis.call('HGET', of.state(ARGV[4]), 'n')
if tonumber(done) < tonumber(ARGV[7]) then return { 'behind', done } end
redis.call('HDEL', of.state(ARGV[4]), 'lease') -- passes when memory is full (prelude.lua): a living worker keeps its lease
redis.call('HSET', of.state(ARGV[4]), 'lease', digits(now + tonumber(ARGV[6])), 'mark', ARGV[8] or '')
return { 'renewed' }
