-- due: the rows of the open index that are to be looked at now, a bounded page of them; and of those to be trimmed.
--
-- KEYS[1] open   ARGV[1] page size   ARGV[2] look_ms: when they are looked at next, unless the reaper says otherwise
-- Returns {now_ms, {job name …}, {job name …}}.
-- Atomic so that several reapers rarely look at the same row; if they do, everything they do is idempotent.

local function page(index)
  local rows = redis.call('ZRANGEBYSCORE', index, '-inf', digits(now), 'LIMIT', 0, ARGV[1])
  for _, job in ipairs(rows) do look_again(index, job, now + tonumber(ARGV[2])) end
  return rows
end

return { digits(now), page(QUEUE.open), page(QUEUE.trims) }
