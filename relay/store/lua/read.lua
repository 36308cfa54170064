-- read: several plain reads of one slot, at one moment. A script and no MULTI, because where memory is full Redis 7
-- refuses even reads within that, and lets a script through that writes nothing.
--
-- KEYS[1] any key of the slot   ARGV: for each read the number of its words, then these, the command first
-- Returns their replies in order; of HGETALL a flat list.
-- Atomic because what is read together is to be true together.

local replies, at = {}, 1
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  replies[#replies + 1] = redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return replies
