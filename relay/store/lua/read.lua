-- read: several plain reads of one slot, at one moment. A script instead of MULTI: when memory is full, Redis 7 refuses
-- even reads in a MULTI, but runs a script that writes nothing.
--
-- KEYS[1] any key of the slot   ARGV: for each read the number of its words, then the words, the command first
-- Returns the replies in order; that of HGETALL is a flat list.
-- Atomic because what is read together must be true together.

local replies, at = {}, 1
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  replies[#replies + 1] = redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return replies
