-- Publishes a probe, if need be at a server that takes no writes, and answers as that does what it answers a write.
-- KEYS shard channel, of which there is no key. ARGV probe.
local written = redis.pcall('DEL', KEYS[1])
redis.call('SPUBLISH', KEYS[1], ARGV[1])
return written
