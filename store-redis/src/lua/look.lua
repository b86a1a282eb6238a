-- What may be due in a partition of channels: {due channels, nodes with connected channels, the last of these if there may
-- be more, else ''}. KEYS connected, due. ARGV limit, after which node or ''.
local nodes, last, more = {}, ARGV[2], false
while #nodes < 500 do
  local after = last == '' and '-' or '(' .. last .. '\1'
  local found = redis.call('ZRANGE', KEYS[1], after, '+', 'BYLEX', 'LIMIT', 0, 1)[1]
  more = found and true
  if not found then break end
  last = string.match(found, '^[^%z]+')
  nodes[#nodes + 1] = last
end
local due = redis.call('ZRANGE', KEYS[2], '-inf', int(now()), 'BYSCORE', 'LIMIT', 0, ARGV[1])
return {due, nodes, more and last or ''}
