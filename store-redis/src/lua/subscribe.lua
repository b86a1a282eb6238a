-- Notes a topic with a living channel. KEYS channel, topics. ARGV generation, topic, rows. Answers -1 if the channel is
-- dead or the generation stale, -2 if the topic is new, else the rows that it had.
local r = redis.call('HMGET', KEYS[1], 'g', 'p')
if r[1] ~= ARGV[1] or r[2] == 'x' then return -1 end
local rows = redis.call('HGET', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[2], bit.bor(rows or 0, ARGV[3]))
return tonumber(rows or -2)
