-- Publishes a probe. The server may take no writes: then it answers as it answers a write. KEYS shard channel, of which
-- there is no key. ARGV probe.
local written = redis.pcall('DEL', KEYS[1])
redis.call('SPUBLISH', KEYS[1], ARGV[1])
return written
