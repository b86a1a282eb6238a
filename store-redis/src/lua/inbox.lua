-- KEYS channel, inbox meta, inbox log. ARGV new epoch, epoch, offset, check, limit.
local phase = redis.call('HGET', KEYS[1], 'p')
if not phase or phase == 'x' then return {0, '0-0-0'} end
local h, epoch, check = read(KEYS[2]), ARGV[2], ARGV[4]
if not h[1] then
  if ARGV[3] == '0' then return {1, epoch .. '-0-0', 0} end
  return {0, epoch .. '-0-0'}
end
if ARGV[3] == '0' then epoch, check = h[1], '0' end
return replay(KEYS[2], KEYS[3], ARGV[1], epoch, ARGV[3], check, ARGV[5])
