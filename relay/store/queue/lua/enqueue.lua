-- enqueue: make a job durable, with a row in the open index by which a reaper will always find it.
--
-- KEYS[1] open   ARGV[1] job name   ARGV[2] priority   ARGV[3] the whole job   ARGV[4] look_ms until the first check
-- ARGV[5] max_backlog   ARGV[6] ttl_ms of the queue's keys
-- ARGV[7] '1': a worker makes it already, so it needs a row but no entry, and a full queue does not refuse it
-- Returns 'queued', 'known' (it is in the queue already; a lost row is restored) or 'full'.
-- Atomic because an entry without its job, or a job without its row, would be lost work.

local function add_row()
  redis.call('ZADD', QUEUE.open, digits(now + tonumber(ARGV[4])), ARGV[1])
  redis.call('PEXPIRE', QUEUE.open, ARGV[6])
end

if redis.call('HEXISTS', QUEUE.jobs, ARGV[1]) == 1 then
  if not redis.call('ZSCORE', QUEUE.open, ARGV[1]) then add_row() end -- Redis has lost only the row
  return 'known'
end
if ARGV[7] ~= '1' and redis.call('HLEN', QUEUE.jobs) >= tonumber(ARGV[5]) then return 'full' end
redis.call('HSET', QUEUE.jobs, ARGV[1], ARGV[3])
add_row()
if ARGV[7] ~= '1' then
  add_entry(ARGV[1], ARGV[2], ARGV[6])
else
  redis.call('HSET', QUEUE.entries, ARGV[1], ARGV[2] .. ' 0-0') -- no entry, but its priority in case it needs one
end
for _, key in pairs(QUEUE) do
  -- Letters have their own expiry: other people's questions are no reason to keep one longer.
  if key ~= QUEUE.dead and key ~= QUEUE.letters then redis.call('PEXPIRE', key, ARGV[6]) end
end
return 'queued'
