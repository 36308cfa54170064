-- rights: which of these commands the user who asks may not run. Runs none of them.
--
-- No KEYS   ARGV: for each command the number of its words, then these. As many as it takes at least: Redis 7 panics
-- where a command that it is to look at lacks its key.
-- Returns the places, from 1, of those that are denied; nothing before Redis 7.0, which cannot be asked.

local denied, at, place = {}, 1, 0
while redis.acl_check_cmd and at <= #ARGV do
  local words = tonumber(ARGV[at])
  place = place + 1
  local known, allowed = pcall(redis.acl_check_cmd, unpack(ARGV, at + 1, at + words))
  if known and not allowed then denied[#denied + 1] = place end -- a command that is not known is nobody's right
  at = at + words + 1
end
return denied
