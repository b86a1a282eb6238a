-- Finds a channel and keeps the event for it, if the channel is detached or can be. KEYS channel, inbox meta, inbox
-- log. ARGV event, epoch, check, count, age. Answers {} if there is no channel, else {location or '', position or ''}.
local r = redis.call('HMGET', KEYS[1], 'p', 'l', 'r')
if not r[1] or r[1] == 'x' then return {} end
local position = ''
if r[3] or r[1] == 'd' then
  position = keep_one(KEYS[2], KEYS[3], ARGV[2], ARGV[3], ARGV[1], ARGV[4], ARGV[5])
end
return {r[1] == 'd' and '' or r[2], position}
