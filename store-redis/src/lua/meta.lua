-- A stream is a meta hash and a log, whose entries are named offset-check. The hash has e, o and c: epoch, offset and
-- check of the head. i: the topic has indexed members. While a log is kept: r, its count; a, its age; f, the first kept
-- offset; b, the position before the log's beginning.

local function int(n) return string.format('%.0f', n) end

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function read(meta)
  return redis.call('HMGET', meta, 'e', 'o', 'c', 'r', 'a', 'f', 'b', 'i')
end

-- Whether a topic has indexed members, 1 or 0. A new counter has not been told of them.
local function indexed_in(h, members)
  if h[1] then return h[8] and 1 or 0 end
  return redis.call('EXISTS', members)
end

-- Notes whether a topic has indexed members with its counter.
local function tell_indexed(meta, members)
  local indexed = redis.call('EXISTS', members)
  if indexed == 1 then redis.call('HSET', meta, 'i', 1) else redis.call('HDEL', meta, 'i') end
  return indexed
end

-- A counter expires after this time, but not before the topic's log. An eighth more saves putting it off at each event.
local function expire(meta, h, time)
  redis.call('PEXPIRE', meta, int(math.ceil(math.max(time, h[5] or 0) * 9 / 8)))
end

-- The counter of a topic without indexed members expires. `due`: put its expiry off now.
local function put_off(meta, h, indexed, due, time)
  if not h[1] and indexed == 1 then redis.call('HSET', meta, 'i', 1) end
  if indexed == 0 and (due or not h[1]) then expire(meta, h, time) end
end

local function at(h) return h[1] .. '-' .. h[2] .. '-' .. h[3] end

-- The head; a stream that has had no event begins in the epoch `seed`.
local function head(meta, seed)
  local h = read(meta)
  if not h[1] then
    redis.call('HSET', meta, 'e', seed, 'o', '0', 'c', '0')
    h[1], h[2], h[3] = seed, '0', '0'
  end
  return h
end

-- Gives n events their offsets without keeping them; the kept log goes. `check` is the last event's check, `h` the head
-- as it was read. Answers the first event's epoch and offset.
local function pass(meta, log, h, seed, n, check)
  local epoch, last = h[1] or seed, int((h[2] or 0) + n)
  if h[4] or not h[1] then
    redis.call('UNLINK', log)
    redis.call('HDEL', meta, 'r', 'a', 'f', 'b')
    redis.call('HSET', meta, 'e', epoch, 'o', last, 'c', check)
  else
    redis.call('HSET', meta, 'o', last, 'c', check)
  end
  return epoch, int((h[2] or 0) + 1)
end
