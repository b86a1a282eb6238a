-- KEYS channel, lock. ARGV token, for how long.
local phase = redis.call('HGET', KEYS[1], 'p')
if not phase or phase == 'x' then return 0 end
return redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
