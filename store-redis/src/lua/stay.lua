-- The node stays on the bus. KEYS node, mailbox meta. ARGV token, for how long, epoch, mailbox's time. Answers 0 if
-- another node has its name.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {0} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local h = head(KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return {1, at(h)}
