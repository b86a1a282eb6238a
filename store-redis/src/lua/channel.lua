-- The grace begins.
local function detach(channel, connected, due, id, node, grace)
  local till = int(now() + grace)
  if node ~= '' then redis.call('ZREM', connected, node .. '\0' .. id) end
  redis.call('HSET', channel, 'p', 'd', 'u', till)
  redis.call('ZADD', due, till, id)
end

-- Makes a channel a tombstone of a generation, or takes a tombstone over. The claimant can ask for its claim again.
local function bury(channel, connected, due, topics, id, generation, node, claimant, ttl)
  local till = int(now() + ttl)
  if node ~= '' then redis.call('ZREM', connected, node .. '\0' .. id) end
  redis.call('HSET', channel, 'p', 'x', 'u', till, 'g', generation, 'c', claimant)
  redis.call('ZADD', due, till, id)
  return {redis.call('HGETALL', channel), redis.call('HKEYS', topics)}
end
