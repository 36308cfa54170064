-- rotate: a follower found that Redis has lost a part of this session: begin a new epoch, so that no seq means two
-- events in one.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] the epoch that the caller follows   ARGV[5] epoch to draw
-- ARGV[6] '1': entries are missing in the log. Then running generations are forgotten, for their workers to rebuild, and
-- of the rest what is left stays.
-- Returns {'rotated'}; {'other'} if the session has another epoch already, or is not there.
-- Atomic because several followers find it at once; one new epoch is enough.

if redis.call('HGET', KEY.meta, 'epoch') ~= ARGV[4] then return { 'other' } end
redis.call('HSET', KEY.meta, 'epoch', ARGV[5])
if ARGV[6] == '1' then
  for _, generation in ipairs(redis.call('ZRANGE', KEY.active, 0, -1)) do
    forget_generation(generation)
  end
  raise_floor_to_head()
end
redis.call(publish_verb, KEY.events, ARGV[5] .. ' 0 ') -- seq 0: no event, a reason to look
return { 'rotated' }
