-- KEYS channel. ARGV generation, opened, token confirmed, then for state and session: expected version or '', whether
-- there is a value, the value (of a session the user and the value). Answers 0 if the generation is stale, 1 if it is
-- done, a record on a conflict.
local r = redis.call('HMGET', KEYS[1], 'g', 'p', 'sv', 'uv')
if r[1] ~= ARGV[1] then return 0 end
local state, session = ARGV[4] ~= '', ARGV[7] ~= ''
if state and ARGV[4] ~= (r[3] or '0') or session and ARGV[7] ~= (r[4] or '0') then
  return redis.call('HGETALL', KEYS[1])
end
if ARGV[2] == '1' and r[2] == 'o' then redis.call('HSET', KEYS[1], 'p', 'O') end
if ARGV[3] == '1' then redis.call('HDEL', KEYS[1], 'q') end
if state then
  redis.call('HSET', KEYS[1], 'sv', int(ARGV[4] + 1))
  if ARGV[5] == '1' then redis.call('HSET', KEYS[1], 's', ARGV[6]) else redis.call('HDEL', KEYS[1], 's') end
end
if session then
  redis.call('HSET', KEYS[1], 'uv', int(ARGV[7] + 1))
  if ARGV[8] == '1' then
    redis.call('HSET', KEYS[1], 'ui', ARGV[9], 'us', ARGV[10])
  else
    redis.call('HDEL', KEYS[1], 'ui', 'us')
  end
end
return 1
