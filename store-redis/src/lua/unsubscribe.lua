-- KEYS channel, topics. ARGV generation, topic, whether its rows are gone. Answers 0 if it was no member, 1 if it was
-- one, 2 if its rows must go first.
local r = redis.call('HMGET', KEYS[1], 'g', 'p')
if r[1] ~= ARGV[1] or r[2] == 'x' then return 0 end
local rows = redis.call('HGET', KEYS[2], ARGV[2])
if rows and rows ~= '0' and ARGV[3] == '0' then return 2 end
return redis.call('HDEL', KEYS[2], ARGV[2])
