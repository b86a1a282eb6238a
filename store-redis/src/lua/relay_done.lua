-- KEYS rows. ARGV token, through, the time for which the relay is held on, 0 = given back.
if redis.call('HGET', KEYS[1], 'rt') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'rf', ARGV[2])
if ARGV[3] == '0' then
    redis.call('HDEL', KEYS[1], 'rt', 'ru')
else
    redis.call('HSET', KEYS[1], 'ru', int(now() + ARGV[3]))
end
return 1
