-- discard: remove a job from the dead letters.
--
-- KEYS[1] open   ARGV[1] job name
-- Returns 1 if it was there.
-- Atomic because a row without its job could never be retried, and a job without its row would never be listed.

local name = ARGV[1]
for _, row in ipairs(redis.call('ZRANGE', QUEUE.dead, 0, -1)) do
  if string.sub(row, 1, #name + 1) == name .. ' ' then redis.call('ZREM', QUEUE.dead, row) end
end
return redis.call('HDEL', QUEUE.letters, name)
