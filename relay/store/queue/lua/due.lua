-- due: the rows of the open index that a reaper must check now, and those that it must trim; a bounded page of each.
--
-- KEYS[1] open   ARGV[1] page size   ARGV[2] look_ms: when they are checked next, unless the reaper decides otherwise
-- ARGV[3] the queue's policy if the reaper runs in one of its workers, otherwise ''   ARGV[4] ttl_ms
-- Returns {now_ms, {job name …}, {job name …}, policy or '', for how many ms no worker has said that it serves the
-- queue, 1 if one has}.
-- Atomic so that several reapers rarely check the same row; if they do, everything they do is idempotent.

local function page(index)
  local rows = redis.call('ZRANGEBYSCORE', index, '-inf', digits(now), 'LIMIT', 0, ARGV[1])
  for _, job in ipairs(rows) do look_again(index, job, now + tonumber(ARGV[2])) end
  return rows
end

local rows, trims = page(QUEUE.open), page(QUEUE.trims)
local policy = redis.call('GET', QUEUE.policy)
if ARGV[3] ~= '' and policy ~= ARGV[3] then
  redis.call('ZREM', QUEUE.open, '') -- as in look_again
  redis.call('SET', QUEUE.policy, ARGV[3], 'PX', ARGV[4])
end
-- Where the last heartbeat is not known (there was none, Redis has lost it, its clock went back), the silence counts
-- from now on, if the queue has jobs.
local unheard, at = string.match(redis.call('GET', QUEUE.served) or '', '^(%??)(%d+)$')
local served = tonumber(at)
if (not served or served > now) and redis.call('EXISTS', QUEUE.open) == 1 then
  redis.call('ZREM', QUEUE.open, '')
  redis.call('SET', QUEUE.served, '?' .. digits(now), 'PX', ARGV[4]) -- '?': set here, not by a worker
end
local silent_ms = math.max(0, now - (served or now))
return { digits(now), rows, trims, ARGV[3] ~= '' and ARGV[3] or policy or '', digits(silent_ms), unheard == '' and 1 or 0 }
