-- take: the next jobs for a worker, by priority. Does not block; workers wait for new entries separately.
--
-- KEYS[1] open   ARGV[1] most: how many at once   ARGV[2…] priorities, highest first
-- Returns {job, …} as they were enqueued. Entries of finished jobs are dropped on the way.
-- Atomic because an entry that was read and its job belong together.

-- One consumer name for all workers: nothing asks the pending list who has an entry, and names would pile up.
local function read(stream, count)
  local ask = { 'XREADGROUP', 'GROUP', GROUP, GROUP, 'COUNT', count, 'STREAMS', stream, '>' }
  local reply = redis.pcall(unpack(ask))
  if reply and reply.err then
    -- No group yet, or Redis lost it. Any other error comes back from the second try.
    tolerant('XGROUP', 'CREATE', stream, GROUP, '0')
    reply = redis.call(unpack(ask))
  end
  return reply and reply[1] and reply[1][2] or {}
end

local most, found = tonumber(ARGV[1]), {}
for index = 2, #ARGV do
  local stream = QUEUE[ARGV[index]]
  local tries = redis.call('EXISTS', stream) == 1 and 100 or 0
  for _ = 1, tries do
    if #found == most then return found end
    local entries = read(stream, most - #found)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      local body = redis.call('HGET', QUEUE.jobs, entry[2][2])
      if body then found[#found + 1] = body else drop_entry(ARGV[index], entry[1]) end
    end
  end
end
return found
