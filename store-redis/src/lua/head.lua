-- KEYS meta, members. ARGV epoch, topic's time.
local h = head(KEYS[1], ARGV[1])
if tell_indexed(KEYS[1], KEYS[2]) == 0 then expire(KEYS[1], h, ARGV[2]) end
return at(h)
