-- KEYS meta, log, members[, key]. ARGV shard channel, event, epoch, check, topic's time, key's time[, count, age].
local indexed = redis.call('EXISTS', KEYS[3])
if KEYS[4] then
  local seen = redis.call('GET', KEYS[4])
  if seen then return {seen, indexed, 1} end
end
local position
if ARGV[7] then
  position = keep(KEYS[1], KEYS[2], ARGV[3], ARGV[4], ARGV[2], ARGV[7], ARGV[8])
else
  position = pass(KEYS[1], KEYS[2], ARGV[3], ARGV[4])
end
if indexed == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[5]) end
if KEYS[4] then redis.call('SET', KEYS[4], position, 'PX', ARGV[6]) end
redis.call('SPUBLISH', ARGV[1], position .. '\n' .. ARGV[2])
return {position, indexed, 0}
