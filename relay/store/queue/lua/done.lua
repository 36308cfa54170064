-- done: a job's generation has ended: remove it from the queue, except for a row for its trimming and, if it is dead, a
-- letter.
--
-- KEYS[1] open   ARGV[1] job name   ARGV[2] trim_ms: when its log is to be trimmed   ARGV[3] ttl_ms   ARGV[4] max_trims
-- ARGV[5] why it is dead, or ''   ARGV[6] max_dead: letters kept, the newest
-- Returns 1 if this call wrote a letter. Idempotent: without its job there is no letter to write.
-- Atomic because entry, job and row must go together: a rest of them would be checked for ever. And because a dead job
-- must always be in the queue or in the letters.

local name = ARGV[1]
local priority, id = entry_of(name)
if id then drop_entry(priority, id) end
local body = ARGV[5] ~= '' and redis.call('HGET', QUEUE.jobs, name)
redis.call('HDEL', QUEUE.entries, name)
redis.call('HDEL', QUEUE.jobs, name)
if redis.call('ZREM', QUEUE.open, name) == 1 and redis.call('ZCARD', QUEUE.trims) < tonumber(ARGV[4]) then
  redis.call('ZADD', QUEUE.trims, digits(now + tonumber(ARGV[2])), name)
  redis.call('PEXPIRE', QUEUE.trims, ARGV[3])
end
if not body or redis.call('HSETNX', QUEUE.letters, name, body) == 0 then return 0 end

local function forget(rows)
  for _, row in ipairs(rows) do
    redis.call('ZREM', QUEUE.dead, row)
    redis.call('HDEL', QUEUE.letters, string.match(row, '^%S+ %S+'))
  end
end

redis.call('ZADD', QUEUE.dead, digits(now), name .. ' ' .. (priority or 'normal') .. ' ' .. ARGV[5])
forget(redis.call('ZRANGEBYSCORE', QUEUE.dead, '-inf', digits(now - tonumber(ARGV[3]))))
forget(redis.call('ZRANGE', QUEUE.dead, 0, -tonumber(ARGV[6]) - 1))
redis.call('PEXPIRE', QUEUE.dead, ARGV[3])
redis.call('PEXPIRE', QUEUE.letters, ARGV[3])
return 1
