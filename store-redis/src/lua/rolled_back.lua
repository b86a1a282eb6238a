-- Begins another epoch if a stream has lost a position that it had: a fail-over, or a restart, rolled it back. Kept
-- events stay. KEYS meta, log. ARGV shard channel, new epoch, the position's epoch, offset and check. Answers the head,
-- or {} if there is none.
local h = read(KEYS[1])
if not h[1] then return {} end
local lost = false
if h[1] == ARGV[3] then
  local last, offset = tonumber(h[2]), tonumber(ARGV[4])
  if last <= offset then
    lost = last < offset or h[3] ~= ARGV[5]
  elseif h[4] then
    local kept = redis.call('XRANGE', KEYS[2], ARGV[4], ARGV[4], 'COUNT', 1)[1]
    lost = kept and kept[1] ~= ARGV[4] .. '-' .. ARGV[5]
  end
end
if lost then
  h[1] = ARGV[2]
  redis.call('HSET', KEYS[1], 'e', h[1])
  -- Subscribers need not wait for the next event: a message without an event tells of a gap.
  redis.call('SPUBLISH', ARGV[1], at(h) .. '\n')
end
return {at(h)}
