-- rights: which of these commands the current user may not run. Runs none of them.
--
-- No KEYS   ARGV: for each command the number of its words, then the words, at least as many as it needs: Redis 7
-- panics when it checks a command that lacks its key.
-- Returns the numbers, from 1, of the denied commands; before Redis 7.0, which cannot be asked, an empty list.

local denied, at, number = {}, 1, 0
while redis.acl_check_cmd and at <= #ARGV do
  local words = tonumber(ARGV[at])
  number = number + 1
  local known, allowed = pcall(redis.acl_check_cmd, unpack(ARGV, at + 1, at + words))
  if known and not allowed then denied[#denied + 1] = number end -- a command unknown to this Redis needs no right
  at = at + words + 1
end
return denied
