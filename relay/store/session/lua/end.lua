-- end: the worker ends its generation. State, result, transcript and event change in one step.
--
-- KEYS[1] meta   ARGV[1..3] see prelude.lua   ARGV[4] generation   ARGV[5] fence
-- ARGV[6] reason   ARGV[7] further members of the event, JSON without braces   ARGV[8] count: tokens the worker wrote
-- ARGV[9] message_id of the answer, '' if it has none   ARGV[10] n of the last acknowledged append
-- Returns {'written', seq}; {'repeated', seq} if its own earlier try was written (a stop or a reaper would have raised
-- the fence); {'ended'} if another end came first; {'stale'}, {'unknown'};
-- {'behind', stored} if the log holds less than the worker wrote.
-- Atomic because the first `end` wins: checking and ending must be one step.

local generation = ARGV[4]
local known = redis.call('HMGET', of.state(generation), 'fence', 'state', 'last')
if known[2] == 'ended' and known[1] == ARGV[5] then return { 'repeated', known[3] } end
local refusal = refuse(generation, ARGV[5])
if refusal then return refusal end
local stored = redis.call('HMGET', of.state(generation), 'count', 'n', 'bytes')
if tonumber(ARGV[8]) > tonumber(stored[1]) or tonumber(ARGV[10]) > tonumber(stored[2])
  or redis.call('STRLEN', of.text(generation)) ~= tonumber(stored[3]) then
  return { 'behind', stored[1] }
end
local seq = end_generation(generation, ARGV[6], ARGV[7])
if ARGV[9] ~= '' then redis.call('HSET', of.state(generation), 'answer_id', ARGV[9]) end
publish()
return { 'written', seq }
