-- KEYS channel, connected, due. ARGV channel, generation, grace.
local r = redis.call('HMGET', KEYS[1], 'g', 'p', 'n')
if r[1] ~= ARGV[2] or r[2] == 'x' then return 0 end
if r[2] ~= 'd' then detach(KEYS[1], KEYS[2], KEYS[3], ARGV[1], r[3], ARGV[3]) end
return 1
