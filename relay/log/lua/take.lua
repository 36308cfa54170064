-- take: the next job for a worker, by priority. Does not block; workers wait for new entries beside it.
--
-- KEYS[1] open   ARGV[1…] priorities, highest first
-- Returns {job name, job}, or {} if there is none. Entries of jobs that are done already are dropped on the way.
-- Atomic because an entry that was read and the job behind it belong together.

-- One consumer name for all workers: nobody asks the pending list who has an entry, and names would pile up.
for index = 1, #ARGV do
  local stream = QUEUE[ARGV[index]]
  local tries = redis.call('EXISTS', stream) == 1 and 100 or 0
  for _ = 1, tries do
    local ask = { 'XREADGROUP', 'GROUP', GROUP, GROUP, 'COUNT', 1, 'STREAMS', stream, '>' }
    local reply = redis.pcall(unpack(ask))
    if reply and reply.err then
      -- No group yet, or Redis lost it. Any other error comes back from the second try.
      redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0')
      reply = redis.call(unpack(ask))
    end
    if not reply or #reply == 0 then break end
    local id, job = reply[1][2][1][1], reply[1][2][1][2][2]
    local body = redis.call('HGET', QUEUE.jobs, job)
    if body then return { job, body } end
    drop_entry(ARGV[index], id)
  end
end
return {}
