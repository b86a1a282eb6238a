-- Notes which channel is at a location. KEYS location. ARGV channel, the channel that it replaces or '', for how long
-- or ''. Answers {1} if it holds the location now, {2} if it did before, else {0, the holder, whether for a time only}.
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  if ARGV[3] == '' then redis.call('PERSIST', KEYS[1]) end
  return {2}
end
local timed = holder and redis.call('PTTL', KEYS[1]) > 0
if holder and (timed or holder ~= ARGV[2]) then return {0, holder, timed and 1 or 0} end
if ARGV[3] == '' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
end
return {1}
