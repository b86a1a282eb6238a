-- KEYS channel, connected, due. ARGV channel, location, node or '', next token or '', 't' or 'h', token or generation.
-- Answers {displaced location or '', record, location to vacate, …}, or {} if the attachment is refused.
local r = redis.call('HMGET', KEYS[1], 'g', 'p', 'l', 'n', 'k', 'q', 'v')
local generation, phase, location, node = r[1], r[2], r[3], r[4]
if not generation or phase == 'x' then return {} end
local moved = location ~= ARGV[2]
if ARGV[5] == 't' then
  if ARGV[6] ~= r[5] and ARGV[6] ~= r[6] then return {} end
elseif ARGV[6] ~= generation then
  -- The same call again, after its answer was lost.
  if int(ARGV[6] + 1) ~= generation or moved or phase == 'd' then return {} end
end
local displaced, vacate = '', {}
if moved then
  if phase ~= 'd' then displaced = location end
  -- Vacate the location before too: the process that was to vacate it may have been interrupted.
  vacate = {location, r[7] or nil}
  redis.call('HSET', KEYS[1], 'v', location)
end
if node ~= '' then redis.call('ZREM', KEYS[2], node .. '\0' .. ARGV[1]) end
redis.call('ZREM', KEYS[3], ARGV[1])
if phase == 'd' then
  redis.call('HDEL', KEYS[1], 'u')
  phase = 'O'
end
if ARGV[3] ~= '' then redis.call('ZADD', KEYS[2], 0, ARGV[3] .. '\0' .. ARGV[1]) end
redis.call('HSET', KEYS[1], 'l', ARGV[2], 'n', ARGV[3], 'p', phase, 'g', int(generation + 1))
if ARGV[4] ~= '' then
  local shown = r[5] or ''
  if ARGV[5] == 't' then shown = ARGV[6] end
  redis.call('HSET', KEYS[1], 'k', ARGV[4], 'q', shown)
end
return {displaced, redis.call('HGETALL', KEYS[1]), unpack(vacate)}
