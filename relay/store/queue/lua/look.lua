-- look: set when the reapers check a row of the open index next.
--
-- KEYS[1] open   ARGV[1] job name   ARGV[2] at_ms
-- Returns 1.
-- A script, though it needs no atomicity: a plain ZADD would be refused when memory is full.

look_again(QUEUE.open, ARGV[1], tonumber(ARGV[2]))
return 1
