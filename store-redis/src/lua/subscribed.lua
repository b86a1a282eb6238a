-- Looks at the channel again once its rows are there. KEYS channel, topics. ARGV generation, topic, rows. Answers 1 if
-- it is a member, 0 if the generation is stale, -1 if the channel is dead.
local r = redis.call('HMGET', KEYS[1], 'g', 'p')
if not r[1] or r[2] == 'x' then return -1 end
if r[1] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
