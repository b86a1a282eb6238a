-- KEYS channel, topics.
local phase = redis.call('HGET', KEYS[1], 'p')
if not phase or phase == 'x' then return {} end
return redis.call('HKEYS', KEYS[2])
