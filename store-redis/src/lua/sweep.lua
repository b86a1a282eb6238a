-- A claimed channel's places and topics, which it has to leave. KEYS channel, topics. ARGV generation. Answers
-- {{places}, {topic, rows, …}} or {}.
local r = redis.call('HMGET', KEYS[1], 'g', 'p', 'l', 'v')
if r[1] ~= ARGV[1] or r[2] ~= 'x' then return {} end
return {{r[3], r[4] or nil}, redis.call('HGETALL', KEYS[2])}
