-- KEYS channel, due. ARGV channel, generation, for how long.
local r = redis.call('HMGET', KEYS[1], 'g', 'p')
if r[1] ~= ARGV[2] or r[2] ~= 'x' then return 0 end
local till = int(now() + ARGV[3])
redis.call('HSET', KEYS[1], 'u', till)
redis.call('ZADD', KEYS[2], till, ARGV[1])
return 1
