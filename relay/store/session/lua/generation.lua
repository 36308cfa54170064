-- One generation: how it is made, who may write it, and how it ends. Shared by every script of a session's slot, after
-- prelude.lua (scripts.py puts both in front).

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
