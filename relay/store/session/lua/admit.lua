-- admit: make the generation of a submit, once per request_id. The gateway runs it, and the worker again before it
-- claims, so a gateway that dies in between does no harm.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] epoch for a new session
-- ARGV[5] generation   ARGV[6] request_id   ARGV[7] body hash
-- ARGV[8] body of the `message` event   ARGV[9] body of `status queued`
-- ARGV[10] max_generations   ARGV[11] max_requests   ARGV[12] whose the session is if this makes it, '' if nobody's
-- ARGV[13…] further fields of the generation, name and value
-- Returns {'admitted' | 'known', generation, body hash, state}: 'known' also if an earlier call has made it;
-- {'full'} if max_generations are active, or it was refused before (refuse.lua). The state is `deleted` if the
-- generation, or the one it retries, was deleted with its session; `foreign` if the session is not ARGV[12]'s.
-- Atomic because request_id, events and generation must exist together or not at all.

local generation, request_id, hash = ARGV[5], ARGV[6], ARGV[7]
local max_generations, max_requests = tonumber(ARGV[10]), tonumber(ARGV[11])

-- Before a generation is forgotten, its question passes on to the oldest other generation that answers it, if any. The
-- entry stays, and still names the forgotten one: `meta` says whose it is now, and `range` returns that. Returns the id
-- of the entry to keep, or nil; then the first seq that is removed or changes.
local function leave_question(old, from)
  local field = 'question ' .. old
  local seq = redis.call('HGET', KEY.meta, field) -- the question had been passed on to this one
  redis.call('HDEL', KEY.meta, field)
  if not seq then
    local entry = redis.call('XRANGE', KEY.log, from .. '-0', from .. '-0')[1]
    if not entry or entry[2][2] ~= old or string.sub(entry[2][4], 1, 17) ~= '{"type":"message"' then return nil, from end
    seq = from
  end
  local message_id = redis.call('HGET', of.state(old), 'message_id')
  for _, other in ipairs(message_id and redis.call('ZRANGE', KEY.generations, 0, -1) or {}) do
    if other ~= old and redis.call('HGET', of.state(other), 'message_id') == message_id then
      redis.call('HSET', KEY.meta, 'question ' .. other, seq)
      return seq .. '-0', seq
    end
  end
  if seq ~= from then redis.call('XDEL', KEY.log, seq .. '-0') end
  return nil, seq
end

-- Forget the oldest generation that has ended, with all its own entries of the log.
local function forget_oldest()
  for _, old in ipairs(redis.call('ZRANGE', KEY.generations, 0, -1, 'WITHSCORES')) do
    local last = redis.call('HGET', of.state(old), 'last')
    if last then
      local from = redis.call('ZSCORE', KEY.generations, old)
      local kept, first = leave_question(old, from)
      for _, entry in ipairs(redis.call('XRANGE', KEY.log, from .. '-0', last .. '-0')) do
        if entry[2][2] == old and entry[1] ~= kept then redis.call('XDEL', KEY.log, entry[1]) end
      end
      redis.call('DEL', of.state(old), of.text(old), of.reasoning(old), of.data(old))
      redis.call('ZREM', KEY.generations, old)
      redis.call('LREM', KEY.transcript, 0, old)
      changed(old, math.min(tonumber(first), tonumber(from)), tonumber(last))
      return
    end
  end
end

-- A request that the new session has already admitted stands, although the deleted one knew it too: a gateway of the
-- release before checks no such tombstone, and its worker admits the job once more.
local again = was_deleted('r ' .. request_id) and redis.call('HEXISTS', KEY.requests, request_id) == 0
  and redis.call('EXISTS', of.state(generation)) == 0
if again or was_deleted('g ' .. generation) then return { 'known', generation, hash, 'deleted' } end
for index = 13, #ARGV, 2 do -- a retry brings its question along: that may not come back either
  if ARGV[index] == 'retry_of' and was_deleted('g ' .. ARGV[index + 1]) then return { 'known', generation, hash, 'deleted' } end
end
local _, whose = ensure_session(ARGV[4], generation, ARGV[12])
if is_foreign(whose, ARGV[12], generation) then return { 'known', generation, hash, 'foreign' } end

local known = redis.call('HGET', KEY.requests, request_id)
if known then
  local owner, known_hash = string.match(known, '^(%S+) (%S+)$')
  local state = redis.call('HGET', of.state(owner), 'state')
  -- Ours, listed in `generations`, but without a state: make it again, as entries of it were missing (rotate.lua).
  if state or owner ~= generation or not redis.call('ZSCORE', KEY.generations, generation) then
    return { 'known', owner, known_hash, state or 'forgotten' }
  end
end
local state = redis.call('HGET', of.state(generation), 'state')
if state then return { 'known', generation, hash, state } end
if redis.call('ZSCORE', KEY.refused, generation) or redis.call('ZCARD', KEY.active) >= max_generations then return { 'full' } end

local first = write_question(generation, ARGV[8], 13)
local status = write(generation, ARGV[9])
new_generation(generation, first or status, { 'request_id', request_id }, 13)
if redis.call('HSET', KEY.requests, request_id, generation .. ' ' .. hash) == 1
  and redis.call('RPUSH', KEY.order, request_id) > max_requests then
  redis.call('HDEL', KEY.requests, redis.call('LPOP', KEY.order))
end
if redis.call('ZCARD', KEY.generations) > max_generations then forget_oldest() end
keep({ KEY.log, KEY.generations, KEY.active, KEY.requests, KEY.order, of.state(generation) })
publish()
return { 'admitted', generation, hash, 'queued' }
