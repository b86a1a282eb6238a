-- Finds channels of a partition that may be due. KEYS connected, due. ARGV limit, after which node or '', a random
-- number. Answers {due channels, nodes with connected channels, the last of these nodes if there may be more, else ''}.
-- If more channels are due than the limit, the answer is a part of them from anywhere.
local nodes, node, more = {}, ARGV[2], false
while #nodes < 500 do
  local after = node == '' and '-' or '(' .. node .. '\1'
  local found = redis.call('ZRANGE', KEYS[1], after, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
  more = found and true
  if not found then break end
  node = string.match(found, '^[^%z]+')
  nodes[#nodes + 1] = node
end
local beyond = redis.call('ZCOUNT', KEYS[2], '-inf', int(now())) - ARGV[1]
local first = beyond > 0 and ARGV[3] % (beyond + 1) or 0
local last = math.min(beyond, first) + ARGV[1] - 1
local due = last < 0 and {} or redis.call('ZRANGE', KEYS[2], int(first), int(last))
return {due, nodes, more and node or ''}
