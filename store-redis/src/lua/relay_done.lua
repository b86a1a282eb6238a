-- KEYS rows. ARGV token, through.
if redis.call('HGET', KEYS[1], 'rt') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'rf', ARGV[2])
redis.call('HDEL', KEYS[1], 'rt', 'ru')
return 1
