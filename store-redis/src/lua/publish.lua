-- Publishes a slice of one topic; with an idempotency key it is one event. KEYS meta, log, members[, key]. ARGV shard
-- channel, epoch, the slice's length, topic's time, whether expiries are due, key's time, count, age, checks, events,
-- beginning of the frame behind its offset. Answers the first event's position, with 1 for its check if there are
-- indexed members, or {position, the same} of the publication that had the key before.
local h, n = read(KEYS[1]), tonumber(ARGV[3])
local indexed = indexed_in(h, KEYS[3])
local seen = KEYS[4] and redis.call('GET', KEYS[4])
if seen then return {seen, indexed} end
local due = ARGV[5] == '1'
local epoch, offset = keep(KEYS[1], KEYS[2], h, ARGV[2], n, ARGV, 9, ARGV[7], ARGV[8], due)
put_off(KEYS[1], h, indexed, due, ARGV[4])
local place = epoch .. '-' .. offset .. '-'
if KEYS[4] then redis.call('SET', KEYS[4], place .. ARGV[9], 'PX', ARGV[6]) end
redis.call('SPUBLISH', ARGV[1], place .. ARGV[9 + 2 * n] .. '\n' .. table.concat(ARGV, '', 9 + n, 8 + 2 * n))
return place .. indexed
