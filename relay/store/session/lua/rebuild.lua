-- rebuild: the worker that holds a generation found that Redis has lost it, or a part of it. Make what is missing of it
-- again, under a new fence; the worker then appends the missing events. The model is not asked twice.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua
-- ARGV[4] generation   ARGV[5] fence that the worker holds   ARGV[6] worker   ARGV[7] lease_ms
-- ARGV[8] epochs that it has written in, between spaces   ARGV[9] seq of its last acknowledged write
-- ARGV[10] the new epoch, if one is needed
-- ARGV[11] request_id   ARGV[12] body hash   ARGV[13] body of the `message` event   ARGV[14] body of `status queued`
-- ARGV[15] whose the session is, '' if nobody's   ARGV[16…] further fields of the generation, name and value
-- Returns {'rebuilt', fence, epoch, head, attempt, count, reasoned, data, crc32}: what the log has now, for this fence
-- to go on from; {'ended'}, also if the session is somebody else's now; {'stale'} if another worker has it, or its
-- request made another generation meanwhile.
-- It counts as append 1 of its fence. It is idempotent.
-- Atomic because fence, epoch and what is left must be checked and changed together: another worker may hold it, too.

local generation, held, worker = ARGV[4], ARGV[5], ARGV[6]
local key = of.state(generation)
if was_deleted('g ' .. generation) then return { 'ended' } end
local epoch, whose = ensure_session(ARGV[10], generation, ARGV[15])
if is_foreign(whose, ARGV[15], generation) then return { 'ended' } end
local needs_epoch = string.find(ARGV[8], ' ' .. epoch .. ' ', 1, true) ~= nil -- the worker has written in this one

local function rebuilt()
  local meta = redis.call('HMGET', KEY.meta, 'epoch', 'seq')
  local state = redis.call('HMGET', key, 'fence', 'attempt', 'count', 'reasoned', 'data', 'crc')
  return { 'rebuilt', state[1], meta[1], meta[2], state[2], state[3], state[4], state[5] or '0', state[6] }
end

local state = redis.call('HMGET', key, 'state', 'fence', 'owner', 'replaced', 'shown', 'bytes', 'attempt')
local known = state[1] and true or false
local mine = state[3] == worker -- perhaps by an earlier rebuild of its own that came late
if state[1] == 'ended' then return { 'ended' } end
if known then
  if mine and state[4] == held then return rebuilt() end
  if not mine and tonumber(state[2]) > tonumber(held) then return { 'stale' } end
  if not state[3] and state[2] == held then return { 'stale' } end -- it has been released
else
  -- In the same epoch, below the floor: it ended and was forgotten while the worker was frozen.
  local floor = tonumber(redis.call('HGET', KEY.meta, 'floor'))
  if needs_epoch and floor >= tonumber(ARGV[9]) and floor > 0 then return { 'ended' } end
  local request = redis.call('HGET', KEY.requests, ARGV[11])
  if request and string.match(request, '^%S+') ~= generation then return { 'stale' } end
end

-- In an epoch that the worker has written in, acknowledged seqs would be given again, to other events: no cursor of it
-- is valid any more, so a new epoch begins.
-- If Redis lost this worker's takeover, the worker before may still write. What that one has shown is nothing to go on
-- from, even if it is as long and of the same attempt: texts of two calls are never mixed. Nor is an attempt that it
-- has opened: this worker's may be lower, and attempts only rise.
local foreign = known and not mine and (state[5] == '1' or state[7] ~= '1')
if foreign or known and redis.call('STRLEN', of.text(generation)) ~= tonumber(state[6]) then
  forget_generation(generation)
  known, needs_epoch = false, true
end
if needs_epoch then redis.call('HSET', KEY.meta, 'epoch', ARGV[10]) end

if not known then
  local first = write_question(generation, ARGV[13], 16)
  local status = write(generation, ARGV[14])
  new_generation(generation, first or status, { 'claims', 1, 'request_id', ARGV[11] }, 16)
  if redis.call('HSETNX', KEY.requests, ARGV[11], generation .. ' ' .. ARGV[12]) == 1 then
    redis.call('RPUSH', KEY.order, ARGV[11])
  end
  keep({ KEY.log, KEY.generations, KEY.active, KEY.requests, KEY.order, key })
end
redis.call('HSET', key, 'fence', next_fence(worker, state[2] or 0, held), 'replaced', held, 'owner', worker, 'n', 1,
  'lease', digits(now + tonumber(ARGV[7])))
publish()
return rebuilt()
