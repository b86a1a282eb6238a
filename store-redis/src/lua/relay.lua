-- KEYS rows. ARGV token, for how long. {from} if it is free.
local r = redis.call('HMGET', KEYS[1], 'rf', 'ru')
local time = now()
if not r[1] or (r[2] and tonumber(r[2]) > time) then return {} end
redis.call('HSET', KEYS[1], 'rt', ARGV[1], 'ru', int(time + ARGV[2]))
return {r[1]}
