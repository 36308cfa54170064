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
-- `sub`: whose it is if this makes it, '' if nobody's. A session of nobody's without events becomes theirs, too: viewers
-- have made it to wait in. Returns the epoch, and whose it is. Once it has events, that never changes.
local function ensure_session(new_epoch, generation, sub)
  local known = redis.call('HMGET', KEY.meta, 'epoch', 'sub', 'seq')
  if known[1] then
    if known[2] or sub == '' or known[3] ~= '0' then return known[1], known[2] or '' end
    redis.call('HSET', KEY.meta, 'sub', sub)
    return known[1], sub
  end
  redis.call('HSET', KEY.meta, 'v', 1, 'epoch', new_epoch, 'seq', 0, 'floor', 0, 'expires', 0)
  if sub ~= '' then redis.call('HSET', KEY.meta, 'sub', sub) end
  redis.call('PEXPIRE', KEY.meta, ttl_ms) -- until the first event (keep)
  local left = redis.call('ZRANGE', KEY.generations, 0, -1)
  left[#left + 1] = generation
  for _, old in ipairs(left) do
    redis.call('DEL', of.state(old), of.text(old), of.reasoning(old), of.data(old))
  end
  redis.call('DEL', KEY.log, KEY.generations, KEY.active, KEY.transcript, KEY.requests, KEY.order)
  return new_epoch, sub
end

-- Whether the session must look absent to the one who asks. `sub`: whose it must be, '' if anybody's will do.
local function is_hidden(sub)
  return sub ~= '' and redis.call('HGET', KEY.meta, 'sub') ~= sub
end

-- Whether a job made for a session of `sub` ('': nobody's) may not write in this one, which is that of `whose`. The
-- release before names nobody: a generation that its gateway has admitted here stands.
local function is_foreign(whose, sub, generation)
  return whose ~= sub and (sub ~= '' or redis.call('EXISTS', of.state(generation)) == 0)
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
