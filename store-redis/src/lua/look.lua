-- What may be due in a partition of channels: {due channels, nodes with connected channels}. KEYS connected, due.
-- ARGV limit, a random number: of more due channels than that the answer is a part from anywhere.
local nodes, after = {}, '-'
while #nodes < 10000 do
  local found = redis.call('ZRANGE', KEYS[1], after, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
  if not found then break end
  local node = string.match(found, '^[^%z]+')
  nodes[#nodes + 1] = node
  after = '(' .. node .. '\1'
end
local more = redis.call('ZCOUNT', KEYS[2], '-inf', int(now())) - ARGV[1]
local first = more > 0 and ARGV[2] % (more + 1) or 0
local last = math.min(more, first) + ARGV[1] - 1
return {last < 0 and {} or redis.call('ZRANGE', KEYS[2], int(first), int(last)), nodes}
