-- claim: give one worker the right to write a generation. Only this decides, never the queue's pending list.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua
-- ARGV[4] generation   ARGV[5] worker   ARGV[6] lease_ms   ARGV[7] history_turns
-- Returns {'unknown'}, {'ended'}, {'leased', ms left} if another worker has it, or
-- {'claimed', fence, attempt, shown, {generations of the transcript}, epoch, head, accepted_ms, claimed_ms,
-- {resume handle or '', count, reasoned, crc32, data}}; shown = '1' if the attempt has shown anything; the last list is
-- the attempt's progress.
-- Atomic because lease and fence together decide who writes; the transcript is read in the same step, so that the
-- history holds exactly the turns completed before the claim.

-- The turns before the question's own. So a retry gets the history that its question had, and so does a generation that
-- is answered only after its retry.
local function asked_before(transcript)
  local question, before = redis.call('HGET', of.state(ARGV[4]), 'message_id'), {}
  for _, other in ipairs(transcript) do
    if question and redis.call('HGET', of.state(other), 'message_id') == question then return before end
    before[#before + 1] = other
  end
  return before
end

local key = of.state(ARGV[4])
local state = redis.call('HMGET', key, 'state', 'lease', 'shown', 'attempt', 'fence', 'owner')
if not state[1] or redis.call('EXISTS', KEY.meta) == 0 then return { 'unknown' } end
if state[1] == 'ended' then return { 'ended' } end
local left_ms = (tonumber(state[2]) or 0) - now
if left_ms > 0 and state[6] and state[6] ~= ARGV[5] then return { 'leased', digits(left_ms) } end

local fence = next_fence(ARGV[5], state[5])
redis.call('HSET', key, 'fence', fence, 'owner', ARGV[5], 'lease', digits(now + tonumber(ARGV[6])), 'n', 0)
if left_ms <= 0 then redis.call('HINCRBY', key, 'claims', 1) end -- a lost reply is no lost worker
redis.call('HSETNX', key, 'claimed', digits(now))
if state[3] ~= '1' then redis.call('HSET', key, 'data', 0) end -- an earlier release's restart does not reset it
local turns = tonumber(ARGV[7])
local history = turns > 0 and asked_before(redis.call('LRANGE', KEY.transcript, -turns, -1)) or {}
local meta = redis.call('HMGET', KEY.meta, 'epoch', 'seq')
local times = redis.call('HMGET', key, 'accepted', 'claimed')
local shown = redis.call('HMGET', key, 'mark', 'count', 'reasoned', 'crc', 'data')
shown[1], shown[5] = shown[1] or '', shown[5] or '0' -- earlier releases keep neither
return { 'claimed', fence, state[4], state[3] or '0', history, meta[1], meta[2], times[1], times[2], shown }
