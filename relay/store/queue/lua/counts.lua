-- counts: how many jobs a queue has.
--
-- KEYS[1] open   ARGV[1…] priorities
-- Returns {now_ms, jobs that wait or run, jobs that no worker has read, since when the oldest of these waits (ms, from
-- its entry's id) or '', dead letters}.
-- Atomic because a job that is read between two counts would count twice or not at all.

local function group_of(stream)
  local groups = tolerant('XINFO', 'GROUPS', stream)
  for _, flat in ipairs(groups.err and {} or groups) do
    local group = {}
    for index = 1, #flat, 2 do group[flat[index]] = flat[index + 1] end
    if group.name == GROUP then return group end
  end
  return { pending = 0, ['last-delivered-id'] = '0-0' } -- no worker has ever read it
end

local waiting, oldest = 0, nil
for _, priority in ipairs(ARGV) do
  local stream = QUEUE[priority]
  local group = group_of(stream)
  local first = redis.call('XRANGE', stream, '(' .. group['last-delivered-id'], '+', 'COUNT', 1)[1]
  if first then
    waiting = waiting + math.max(0, redis.call('XLEN', stream) - group.pending)
    local at = tonumber(string.match(first[1], '^%d+'))
    oldest = math.min(oldest or at, at)
  end
end
return { digits(now), redis.call('HLEN', QUEUE.jobs), waiting, oldest and digits(oldest) or '', redis.call('ZCARD', QUEUE.dead) }
