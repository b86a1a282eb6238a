-- KEYS meta, members. ARGV epoch, topic's time.
local h = head(KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return at(h)
