-- Shared by every script of a queue's slot (scripts.py puts it in front of them).
--
-- KEYS[1]  the queue's open key; all other names derive from it (keys.py)
-- A job's name is "SESSION GENERATION" everywhere in this slot.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function digits(number) return string.format('%.0f', number) end

-- Move an existing row. ZREM removes nothing (no row is called ''), but as the first write it lets the script pass when
-- memory is full (session/lua/prelude.lua): ends and trims depend on these checks.
local function look_again(index, job, at)
  redis.call('ZREM', index, '')
  redis.call('ZADD', index, 'XX', digits(at), job)
end

-- Either key may be new: Redis has lost it, or no job had that priority before.
local function add_entry(job, priority, ttl_ms)
  local id = redis.call('XADD', QUEUE[priority], '*', 'j', job)
  redis.call('HSET', QUEUE.entries, job, priority .. ' ' .. id)
  for _, key in ipairs({ QUEUE[priority], QUEUE.entries }) do redis.call('PEXPIRE', key, ttl_ms) end
end

local function entry_of(job)
  local entry = redis.call('HGET', QUEUE.entries, job)
  if not entry then return nil end
  return string.match(entry, '^(%S+) (%S+)$')
end

-- Without the consumer group (no worker has come yet, or Redis lost it) acknowledging and reading fail: that is
-- expected. A missing right of the Redis user is not.
local function tolerant(...)
  local reply = redis.pcall(...)
  if denied(reply) then error(reply.err, 0) end
  return reply
end

local function drop_entry(priority, id)
  tolerant('XACK', QUEUE[priority], GROUP, id)
  redis.call('XDEL', QUEUE[priority], id)
end
