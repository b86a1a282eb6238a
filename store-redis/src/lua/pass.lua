-- Publishes a slice of one topic without keeping it. KEYS meta, log, members. ARGV shard channel, epoch, the slice's
-- length, topic's time, whether expiries are due, the last event's check, the frame behind its offset. Answers as
-- publish.lua.
local h = read(KEYS[1])
local indexed = indexed_in(h, KEYS[3])
local epoch, offset = pass(KEYS[1], KEYS[2], h, ARGV[2], ARGV[3], ARGV[6])
put_off(KEYS[1], h, indexed, ARGV[5] == '1', ARGV[4])
local place = epoch .. '-' .. offset .. '-'
redis.call('SPUBLISH', ARGV[1], place .. ARGV[7])
return place .. indexed
