-- Shared by every script of a session's slot (scripts.py puts it in front of them).
--
-- KEYS[1]  the session's meta key; it routes the script, and all other names derive from it (keys.py)
-- ARGV[1]  session     ARGV[2]  session_ttl_ms     ARGV[3]  PUBLISH or SPUBLISH
--
-- Order within a script: state and log first, publish last. Under memory pressure a script that publishes first would
-- show text that no log holds.
--
-- When memory is full, Redis refuses a script at its first write if that may take memory; otherwise it lets the script
-- run to its end. It never stops one in the middle. So the first write decides: scripts that begin or grow something
-- (admit, claim, append) start with a write that is refused, and leave no trace. Scripts that end or free something
-- start with one that passes (HDEL, ZREM, XDEL …): a full Redis must be able to stop, to end and to become empty again.

local ttl_ms, publish_verb = tonumber(ARGV[2]), ARGV[3]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local unpublished, created = {}, {} -- created: keys that this script has made

-- Lua prints large numbers as 1e+15; Redis and JSON need digits.
local function digits(number) return string.format('%.0f', number) end

-- Make sure the session exists. If meta is missing, a new epoch begins: what is left of the old one is deleted, also of
-- `generation`, which may not be listed any more. A script that does not call this must check that meta exists before
-- it writes anything: seqs continue from there.
local function ensure_session(new_epoch, generation)
  local epoch = redis.call('HGET', KEY.meta, 'epoch')
  if epoch then return epoch end
  redis.call('HSET', KEY.meta, 'v', 1, 'epoch', new_epoch, 'seq', 0, 'floor', 0, 'expires', 0)
  redis.call('PEXPIRE', KEY.meta, ttl_ms) -- until the first event (keep)
  local left = redis.call('ZRANGE', KEY.generations, 0, -1)
  left[#left + 1] = generation
  for _, old in ipairs(left) do
    redis.call('DEL', of.state(old), of.text(old), of.reasoning(old), of.data(old))
  end
  redis.call('DEL', KEY.log, KEY.generations, KEY.active, KEY.transcript, KEY.requests, KEY.order)
  return new_epoch
end

-- Whether there is a tombstone of this epoch ('e …'), generation ('g …') or request_id ('r …'): then nothing late may
-- bring it back.
local function was_deleted(tombstone)
  return redis.call('ZSCORE', KEY.deleted, tombstone) ~= false
end

-- Append one event to the log; it is published when the script has written everything (`publish`).
local function write(generation, body)
  local seq = digits(redis.call('HINCRBY', KEY.meta, 'seq', 1))
  redis.call('XADD', KEY.log, seq .. '-0', 'g', generation, 'e', body)
  if redis.call('XLEN', KEY.log) == 1 then created[#created + 1] = KEY.log end
  unpublished[#unpublished + 1] = seq .. ' ' .. body
  return seq
end

local function publish(epoch)
  epoch = epoch or redis.call('HGET', KEY.meta, 'epoch')
  for _, event in ipairs(unpublished) do
    redis.call(publish_verb, KEY.events, epoch .. ' ' .. event)
  end
end

-- Keep the session for its TTL after this event. All its keys expire at one moment, which moves in steps of a tenth of
-- the TTL, so that only very few appends have to walk over all keys. `more`: keys that this script may have made,
-- besides those in `created`.
local function keep(more)
  local expires = tonumber(redis.call('HGET', KEY.meta, 'expires'))
  local keys = more or {}
  if expires < now + ttl_ms then
    expires = now + ttl_ms + math.floor(ttl_ms / 10)
    redis.call('HSET', KEY.meta, 'expires', digits(expires))
    keys = { KEY.meta, KEY.log, KEY.generations, KEY.active, KEY.transcript, KEY.requests, KEY.order }
    for _, generation in ipairs(redis.call('ZRANGE', KEY.generations, 0, -1)) do
      keys[#keys + 1] = of.state(generation)
      keys[#keys + 1] = of.text(generation)
      keys[#keys + 1] = of.reasoning(generation)
      keys[#keys + 1] = of.data(generation)
    end
  end
  for _, list in ipairs({ keys, created }) do
    for _, key in ipairs(list) do redis.call('PEXPIREAT', key, digits(expires)) end
  end
end

-- Only the holder of the current fence may write, and only while the generation has not ended. Returns a refusal, or
-- nil and the epoch. 'unknown': Redis has lost the generation, its session's meta, or the claim (fences only rise).
-- `held`: refuse a released claim, too: a write that was on its way then would revive the lease.
local function refuse(generation, fence, held)
  local state = redis.call('HMGET', of.state(generation), 'fence', 'state', 'owner')
  local epoch = redis.call('HGET', KEY.meta, 'epoch')
  if not state[1] then return { was_deleted('g ' .. generation) and 'ended' or 'unknown' } end
  if not epoch then return { 'unknown' } end
  if state[2] == 'ended' then return { 'ended' } end
  if tonumber(state[1]) > tonumber(fence) then return { 'stale' } end
  if tonumber(state[1]) < tonumber(fence) then return { 'unknown' } end
  if held and not state[3] then return { 'stale' } end
  return nil, epoch
end

-- The next fence: higher than the stored one and the one held. It comes from the clock, so that a fence that Redis has
-- lost is not given again. Its last digits come from the worker: so two workers differ even if the clock went back.
local function next_fence(worker, stored, held)
  local highest, own = math.max(tonumber(stored), tonumber(held) or 0), 0
  for index = 1, #worker do own = (own * 31 + string.byte(worker, index)) % 1000 end
  return digits(math.max(now, math.floor(highest / 1000) + 1) * 1000 + own)
end

-- Which entries were merged or removed in this epoch, oldest first: {trims, first, last, generation}. `trims` counts
-- how often; with the floor it is the log version (versions.py). An earlier release raises only the floor: then
-- everything below it counts as changed.
local function changes(trims)
  local meta, found = redis.call('HMGET', KEY.meta, 'changes', 'floor', 'floored'), {}
  for count, first, last, generation in string.gmatch(meta[1] or '', '(%d+) (%d+) (%d+) (%S+)\n') do
    found[#found + 1] = { tonumber(count), tonumber(first), tonumber(last), generation }
  end
  if meta[2] ~= (meta[3] or '0') then found[#found + 1] = { tonumber(trims), 1, tonumber(meta[2]), '-' } end
  return found
end

-- Note that entries of an ended generation were merged or removed, and raise the floor: no cursor among them may be
-- continued. Consecutive changes of one generation are joined; beyond MAX_CHANGES the oldest are joined, too.
local MAX_CHANGES = 32
local function changed(generation, first, last)
  local trims = redis.call('HINCRBY', KEY.meta, 'trims', 1)
  local list = changes(trims)
  local newest = list[#list]
  if newest and newest[4] == generation then
    list[#list] = { trims, math.min(newest[2], first), math.max(newest[3], last), generation }
  else
    list[#list + 1] = { trims, first, last, generation }
  end
  while #list > MAX_CHANGES do
    local oldest = table.remove(list, 1)
    list[1] = { list[1][1], math.min(oldest[2], list[1][2]), math.max(oldest[3], list[1][3]), '-' }
  end
  local written = {}
  for _, change in ipairs(list) do
    written[#written + 1] = digits(change[1]) .. ' ' .. digits(change[2]) .. ' ' .. digits(change[3]) .. ' ' .. change[4] .. '\n'
  end
  local floor = digits(math.max(last, tonumber(redis.call('HGET', KEY.meta, 'floor'))))
  redis.call('HSET', KEY.meta, 'floor', floor, 'floored', floor, 'changes', table.concat(written))
end

-- For a new epoch: nothing in the log may be replayed from the middle.
local function raise_floor_to_head()
  local head = redis.call('HGET', KEY.meta, 'seq')
  redis.call('HSET', KEY.meta, 'floor', head, 'floored', head)
end

-- A question that is asked again belongs to all generations that answer it. It is in the log if one of them has a
-- state, or if its entry is the first of one whose state will be made again (forget_generation).
local function question_stands(message_id)
  local listed = redis.call('ZRANGE', KEY.generations, 0, -1, 'WITHSCORES')
  for index = 1, #listed, 2 do
    local known = redis.call('HMGET', of.state(listed[index]), 'message_id', 'state')
    if known[1] == message_id then return true end
    if not known[2] then
      local entry = redis.call('XRANGE', KEY.log, listed[index + 1] .. '-0', listed[index + 1] .. '-0')[1]
      local begins = '{"type":"message","message_id":"' .. message_id .. '"'
      if entry and string.sub(entry[2][4], 1, #begins) == begins then return true end
      if redis.call('HEXISTS', KEY.meta, 'question ' .. listed[index]) == 1 then return true end
    end
  end
  return false
end

-- Write a generation's `message`, unless it is in the log already: as its own, or as that of another generation with
-- the same question (Redis may have lost any of them). `from`: where in ARGV its fields begin, name and value.
-- Returns its seq, or nil if there is none to write.
local function write_question(generation, body, from)
  local first = redis.call('ZSCORE', KEY.generations, generation)
  if first and #redis.call('XRANGE', KEY.log, first .. '-0', first .. '-0') > 0 then return first end
  for index = from, #ARGV, 2 do
    if ARGV[index] == 'message_id' and question_stands(ARGV[index + 1]) then return nil end
  end
  return body ~= '' and write(generation, body) or nil -- '': an earlier release's gateway sent a retry
end

-- Make the state of a generation, and list it as active. Every script that makes one does it here, so that no field is
-- missing. `first`: the seq of its first entry. `known`: names and values that differ from those of a new one. `from`:
-- where in ARGV its further fields begin, name and value; nil: Redis has lost them, and nobody knows them.
local function new_generation(generation, first, known, from)
  local fields = { 'state', 'queued', 'attempt', 1, 'fence', 0, 'n', 0, 'count', 0, 'reasoned', 0, 'data', 0, 'bytes', 0,
    'crc', 0, 'accepted', digits(now) }
  for _, part in ipairs(known) do fields[#fields + 1] = part end
  for index = from or #ARGV + 1, #ARGV do fields[#fields + 1] = ARGV[index] end
  redis.call('HSET', of.state(generation), unpack(fields)) -- of two values of one name the last counts
  redis.call('ZADD', KEY.generations, first, generation)
  redis.call('ZADD', KEY.active, first, generation)
end

-- Remove a generation's entries from the log, except its `message`, and everything else of it except its seq in
-- `generations` and its request: a submit that is retried must find it. The caller must change the epoch as well.
local function forget_generation(generation)
  local from = '-'
  repeat
    local entries = redis.call('XRANGE', KEY.log, from, '+', 'COUNT', 500)
    for _, entry in ipairs(entries) do
      if entry[2][2] == generation and string.sub(entry[2][4], 1, 17) ~= '{"type":"message"' then
        redis.call('XDEL', KEY.log, entry[1])
      end
      from = '(' .. entry[1]
    end
  until #entries < 500
  redis.call('DEL', of.state(generation), of.text(generation), of.reasoning(generation), of.data(generation))
  redis.call('ZREM', KEY.active, generation)
  raise_floor_to_head()
end

-- Whether `one` was asked after `other`; both answer the same question. Redis' clock may have stood still or gone back,
-- and after a loss the seqs in `generations` only say which came back first.
local function is_newer(one, other)
  local mine = redis.call('HMGET', of.state(one), 'retry_of', 'accepted')
  local theirs = redis.call('HMGET', of.state(other), 'retry_of', 'accepted')
  if mine[1] == other or theirs[1] == one then return mine[1] == other end
  local at, their_at = tonumber(mine[2]) or 0, tonumber(theirs[2]) or 0
  if at ~= their_at then return at > their_at end
  local function first(generation) return tonumber(redis.call('ZSCORE', KEY.generations, generation) or 0) end
  return first(one) > first(other)
end

-- Add a complete answer to the transcript. Each question has one answer there, that of the newest retry, in whatever
-- order they end; it replaces the answer that the question had.
local function join_transcript(generation, message_id)
  local earlier = {}
  for index, other in ipairs(redis.call('LRANGE', KEY.transcript, 0, -1)) do
    if message_id and redis.call('HGET', of.state(other), 'message_id') == message_id then
      if is_newer(other, generation) then return end
      earlier[#earlier + 1] = { at = index - 1, generation = other }
    end
  end
  if #earlier == 0 then return redis.call('RPUSH', KEY.transcript, generation) end
  redis.call('LSET', KEY.transcript, earlier[1].at, generation)
  for index = 2, #earlier do redis.call('LREM', KEY.transcript, 0, earlier[index].generation) end
end

-- Write the one `end` of a generation, from what Redis holds of it, and store its final state. `members`: further JSON
-- members of the event, without braces. The caller has checked that it has not ended yet.
local function end_generation(generation, reason, members)
  local key = of.state(generation)
  local got = redis.call('HMGET', key, 'attempt', 'count', 'bytes', 'crc', 'accepted', 'claimed', 'first', 'message_id')
  local attempt, count, bytes, crc, accepted, claimed, first, message_id = unpack(got)
  local function since_accepted(at) return digits(math.max(0, at - accepted)) end -- after a failover the clock may go back
  local timings = { '"total":' .. since_accepted(now) }
  if claimed then timings[#timings + 1] = '"queued":' .. since_accepted(claimed) end
  if first then timings[#timings + 1] = '"first_token":' .. since_accepted(first) end
  local body = '{"type":"end","generation":"' .. generation .. '","attempt":' .. attempt
    .. ',"reason":"' .. reason .. '","count":' .. count .. ',"text_bytes":' .. bytes .. ',"crc32":' .. crc
    .. ',"timings_ms":{' .. table.concat(timings, ',') .. '}'
    .. (members ~= '' and ',' .. members or '') .. '}'
  redis.call('HDEL', key, 'owner', 'lease') -- the first write: an end passes when memory is full
  redis.call('HSET', key, 'state', 'ended', 'end', body, 'reason', reason, 'over', digits(now))
  redis.call('ZREM', KEY.active, generation)
  if reason == 'complete' then join_transcript(generation, message_id) end
  local seq = write(generation, body)
  redis.call('HSET', key, 'last', seq)
  keep({ KEY.transcript })
  return seq
end
