-- Puts commands into a node's mailbox, if the node is on the bus. KEYS node, meta, log. ARGV shard channel, epoch,
-- count, age, check, command, check, command, …
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 5, #ARGV, 2 do
  local position = keep_one(KEYS[2], KEYS[3], ARGV[2], ARGV[i], ARGV[i + 1], ARGV[3], ARGV[4])
  redis.call('SPUBLISH', ARGV[1], position .. '\n' .. ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
