-- What may be due in a partition of channels: {due channels, nodes with connected channels}. KEYS connected, due.
-- ARGV limit.
local nodes, after = {}, '-'
while #nodes < 10000 do
  local found = redis.call('ZRANGE', KEYS[1], after, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
  if not found then break end
  local node = string.match(found, '^[^%z]+')
  nodes[#nodes + 1] = node
  after = '(' .. node .. '\1'
end
return {redis.call('ZRANGE', KEYS[2], '-inf', int(now()), 'BYSCORE', 'LIMIT', 0, ARGV[1]), nodes}
