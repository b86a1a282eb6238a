-- A stream is a meta hash (e epoch, o offset and c check of the head; while a log is kept: r how many, a for how long,
-- f the first offset kept, b the position before the log's beginning) and a log, whose entries are named offset-check.

local function int(n) return string.format('%.0f', n) end

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function read(meta)
  return redis.call('HMGET', meta, 'e', 'o', 'c', 'r', 'a', 'f', 'b')
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

-- Gives an event its position without keeping it; what was kept goes.
local function pass(meta, log, seed, check)
  local h = read(meta)
  if h[4] or not h[1] then
    redis.call('DEL', log)
    redis.call('HDEL', meta, 'r', 'a', 'f', 'b')
  end
  h[1], h[2], h[3] = h[1] or seed, int((h[2] or 0) + 1), check
  redis.call('HSET', meta, 'e', h[1], 'o', h[2], 'c', check)
  return at(h)
end

-- Drops what is too old but the last of it, whose check a replay from there needs.
local function age_out(log, time, age)
  while true do
    local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 2)
    if #first < 2 or first[2][2][2] + age > time then return end
    redis.call('XTRIM', log, 'MINID', '=', first[2][1])
  end
end

local function keep(meta, log, seed, check, blob, count, age)
  count, age = tonumber(count), tonumber(age)
  if count == 0 or age == 0 then return pass(meta, log, seed, check) end
  local h, time = read(meta), now()
  if not h[1] then
    redis.call('DEL', log)
    h[1], h[2], h[3] = seed, '0', '0'
  end
  local offset = h[2] + 1
  local first = offset - count + 1
  if redis.call('EXISTS', log) == 0 then
    first = offset
    redis.call('HSET', meta, 'b', h[2] .. '-' .. h[3])
  elseif tonumber(h[6] or 0) > first then
    first = h[6]
  end
  h[2], h[3] = int(offset), check
  redis.call('XADD', log, 'MAXLEN', '=', count + 1, h[2] .. '-' .. check, 't', int(time), 'e', blob)
  redis.call('PEXPIRE', log, int(age))
  redis.call('HSET', meta, 'e', h[1], 'o', h[2], 'c', check, 'r', int(count), 'a', int(age), 'f', int(first))
  if offset % 16 == 0 then age_out(log, time, age) end
  return at(h)
end

-- Up to `limit` events after a position: {1, head, whether there are more, id, event, id, event, …}, or {0, head} for
-- a gap.
local function replay(meta, log, seed, epoch, offset, check, limit)
  local h = read(meta)
  if not h[1] then return {0, seed .. '-0-0'} end
  local gap, last, from = {0, at(h)}, tonumber(h[2]), tonumber(offset)
  if epoch ~= h[1] or from > last then return gap end
  if from == last then
    if check == h[3] then return {1, at(h), 0} end
    return gap
  end
  if not h[4] or from + 1 < tonumber(h[6]) then return gap end
  local id = offset .. '-' .. check
  if h[7] ~= id and #redis.call('XRANGE', log, id, id) == 0 then return gap end
  local answer = {1, at(h), 0}
  local found = redis.call('XRANGE', log, int(from + 1) .. '-0', '+', 'COUNT', math.max(limit, 1))
  local first = found[1]
  if not first or first[2][2] + h[5] <= now() then return gap end
  if string.match(first[1], '^%d+') ~= int(from + 1) then return gap end
  if tonumber(limit) == 0 then found = {} end
  for _, entry in ipairs(found) do
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = entry[2][4]
  end
  if from + #found < last then answer[3] = 1 end
  return answer
end
