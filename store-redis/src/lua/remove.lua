-- KEYS channel, topics, inbox meta, inbox log, lock, due. ARGV channel, generation.
local r = redis.call('HMGET', KEYS[1], 'g', 'p')
if r[1] ~= ARGV[2] or r[2] ~= 'x' then return 0 end
redis.call('ZREM', KEYS[6], ARGV[1])
return redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
