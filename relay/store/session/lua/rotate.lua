-- rotate: a follower found that Redis has lost a part of this session: begin a new epoch, so that within one epoch no
-- seq means two events.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] the epoch that the caller follows   ARGV[5] the new epoch
-- ARGV[6] '1': entries are missing in the log. Then running generations are forgotten, and their workers rebuild them;
-- everything else that is left stays.
-- Returns {'rotated'}; {'other'} if the session has another epoch already, or does not exist.
-- Atomic because several followers find the loss at once; one new epoch is enough.

if redis.call('HGET', KEY.meta, 'epoch') ~= ARGV[4] then return { 'other' } end
redis.call('HSET', KEY.meta, 'epoch', ARGV[5])
if ARGV[6] == '1' then
  for _, generation in ipairs(redis.call('ZRANGE', KEY.active, 0, -1)) do
    forget_generation(generation)
  end
  raise_floor_to_head()
end
redis.call(publish_verb, KEY.events, ARGV[5] .. ' 0 ') -- seq 0: no event, a reason to sync
return { 'rotated' }
