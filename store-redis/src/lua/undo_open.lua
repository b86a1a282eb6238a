-- Removes the record that `open` made, unless it was used since. KEYS channel, connected, due. ARGV channel, location.
local r = redis.call('HMGET', KEYS[1], 'g', 'p', 'l', 'n')
if r[1] ~= '1' or r[2] ~= 'o' or r[3] ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[2], r[4] .. '\0' .. ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return redis.call('DEL', KEYS[1])
