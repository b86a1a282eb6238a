-- Sets a channel's rows in a topic as the channel asks: in the index or not, present or not. KEYS meta, log, members,
-- present, rows. ARGV shard channel, channel, indexed, present, entry, join event before and after its time, epoch,
-- check, topic's time[, only if one of its rows has this number].
local meta, log, members, present, rows = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local channel, epoch, check = ARGV[2], ARGV[8], ARGV[9]
local was_indexed, was_present = redis.call('ZSCORE', members, channel), redis.call('ZSCORE', present, channel)
if ARGV[11] and ARGV[11] ~= was_indexed and ARGV[11] ~= was_present then return false end

local function follow(event)
  local h = read(meta)
  local kept = h[4] and redis.call('EXISTS', log) == 1
  local e, o = keep(meta, log, h, epoch, 1, {check, event}, 1, kept and h[4] or 0, kept and h[5] or 0, true)
  redis.call('SPUBLISH', ARGV[1], e .. '-' .. o .. '-' .. check .. '\n' .. event)
end

local function row(since, event)
  return since .. ' ' .. #ARGV[5] .. ' ' .. ARGV[5] .. event
end

if ARGV[4] == '1' then
  local since
  if was_present then
    since = string.match(redis.call('HGET', rows, 'p' .. channel), '^%d+')
  else
    since = int(now())
    redis.call('ZADD', present, redis.call('HINCRBY', rows, 'n', 1), channel)
  end
  local event = ARGV[6] .. since .. ARGV[7]
  redis.call('HSET', rows, 'p' .. channel, row(since, event))
  if not was_present then follow('\1\0\0\0' .. event) end
elseif was_present then
  local shown = redis.call('HGET', rows, 'p' .. channel)
  redis.call('ZREM', present, channel)
  redis.call('HDEL', rows, 'p' .. channel)
  local length, after = string.match(shown, '^%d+ (%d+) ()')
  follow('\2\0\0\0' .. string.sub(shown, after + length))
end

local h = head(meta, epoch)
if ARGV[3] == '1' then
  if not was_indexed then
    redis.call('ZADD', members, redis.call('HINCRBY', rows, 'n', 1), channel)
    redis.call('HSET', rows, 'm' .. channel, at(h))
    redis.call('HSETNX', rows, 'rf', at(h))
  end
elseif was_indexed then
  redis.call('ZREM', members, channel)
  redis.call('HDEL', rows, 'm' .. channel)
  if redis.call('EXISTS', members) == 0 then redis.call('HDEL', rows, 'rf', 'rt', 'ru') end
end
tell_indexed(meta, members)
if redis.call('EXISTS', members, present) == 0 then
  redis.call('DEL', rows)
  expire(meta, h, ARGV[10])
else
  redis.call('PERSIST', meta)
end
return at(h)
