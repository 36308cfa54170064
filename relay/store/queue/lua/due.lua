-- due: the rows of the open index that are to be looked at now, a bounded page of them; and of those to be trimmed.
--
-- KEYS[1] open   ARGV[1] page size   ARGV[2] look_ms: when they are looked at next, unless the reaper says otherwise
-- ARGV[3] the queue's policy, if the reaper is of one of its workers, else ''   ARGV[4] ttl_ms
-- Returns {now_ms, {job name …}, {job name …}, policy or '', for how many ms no worker has said that it serves the
-- queue, 1 if one has}.
-- Atomic so that several reapers rarely look at the same row; if they do, everything they do is idempotent.

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
-- Where that is not known (nobody ever came, Redis has lost it, its clock went back), it counts from now on, if there
-- is anything to do in the queue.
local unheard, at = string.match(redis.call('GET', QUEUE.served) or '', '^(%??)(%d+)$')
local served = tonumber(at)
if (not served or served > now) and redis.call('EXISTS', QUEUE.open) == 1 then
  redis.call('ZREM', QUEUE.open, '')
  redis.call('SET', QUEUE.served, '?' .. digits(now), 'PX', ARGV[4]) -- a mark of ours: no worker has spoken
end
local silent_ms = math.max(0, now - (served or now))
return { digits(now), rows, trims, ARGV[3] ~= '' and ARGV[3] or policy or '', digits(silent_ms), unheard == '' and 1 or 0 }
