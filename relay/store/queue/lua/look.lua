-- look: when the reapers look at a row of the open index next.
--
-- KEYS[1] open   ARGV[1] job name   ARGV[2] at_ms
-- Returns 1.
-- Atomic only because it is a script: a plain ZADD would be refused where memory is full.

look_again(QUEUE.open, ARGV[1], tonumber(ARGV[2]))
return 1
