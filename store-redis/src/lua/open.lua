-- KEYS channel, connected, due. ARGV channel, location, node or '', the time until it is due or '', field, value, …
-- Answers 1 and the record if it is new, else 0.
if redis.call('EXISTS', KEYS[1]) == 1 then return {0, redis.call('HGETALL', KEYS[1])} end
redis.call('HSET', KEYS[1], 'g', '1', 'p', 'o', 'l', ARGV[2], 'n', ARGV[3], 't', int(now()), unpack(ARGV, 5))
if ARGV[3] ~= '' then redis.call('ZADD', KEYS[2], 0, ARGV[3] .. '\0' .. ARGV[1]) end
if ARGV[4] ~= '' then redis.call('ZADD', KEYS[3], int(now() + ARGV[4]), ARGV[1]) end
return {1, redis.call('HGETALL', KEYS[1])}
