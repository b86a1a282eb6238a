-- The most frequent case of pass.lua, before the functions of the other cases: to make them takes a sixth of its time.
local q = redis.call('HMGET', KEYS[1], 'e', 'o', 'r', 'i')
if q[1] and not q[3] and ARGV[5] ~= '1' then
  redis.call('HSET', KEYS[1], 'o', string.format('%.0f', q[2] + ARGV[3]), 'c', ARGV[6])
  local place = q[1] .. '-' .. string.format('%.0f', q[2] + 1) .. '-'
  redis.call('SPUBLISH', ARGV[1], place .. ARGV[7])
  return place .. (q[4] and 1 or 0)
end

