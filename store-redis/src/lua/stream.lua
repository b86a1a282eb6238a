-- A stream's log, behind meta.lua.

-- One script drops no more events than this.
local MOST_DROPPED = 10000

-- Drops too old events but the last one: a replay from there needs its check. One call may leave some. The next ones
-- drop them, and no replay reads them. Offsets have no holes, so bisection finds the last old event.
local function age_out(log, time, age)
  local function old(offset)
    local entry = redis.call('XRANGE', log, int(offset), int(offset), 'COUNT', 1)[1]
    return entry and entry[2][2] + age <= time and entry[1]
  end
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if not first or first[2][2] + age > time then return end
  local from = tonumber(string.match(first[1], '^%d+'))
  local last, found, step = from, first[1], 1
  while step < MOST_DROPPED do
    local id = old(from + step)
    if not id then break end
    last, found, step = from + step, id, step * 2
  end
  local beyond = from + math.min(step, MOST_DROPPED)
  while last + 1 < beyond do
    local middle = math.floor((last + beyond) / 2)
    local id = old(middle)
    if id then last, found = middle, id else beyond = middle end
  end
  if last > from then redis.call('XTRIM', log, 'MINID', '=', found) end
end

-- Gives n events their offsets and keeps them: `of` has from `at` on their checks, then the events. `due`: put the
-- log's expiry off now, to an eighth more than its age, so that each event need not do so.
local function keep(meta, log, h, seed, n, of, at, count, age, due)
  count, age = tonumber(count), tonumber(age)
  if count == 0 or age == 0 then return pass(meta, log, h, seed, n, of[at + n - 1]) end
  local epoch, before, time = h[1] or seed, tonumber(h[2] or 0), now()
  local t, last = int(time), before + n
  -- A log that is to be shorter becomes so in steps; events beyond `count` are not read meanwhile.
  local length = math.max(count, tonumber(h[4] or 0) - MOST_DROPPED)
  local function add(i, make)
    local id = int(before + i) .. '-' .. of[at + i - 1]
    local event = of[at + n + i - 1]
    if make then return redis.call('XADD', log, 'MAXLEN', '=', length + 1, id, 't', t, 'e', event) end
    return redis.call('XADD', log, 'NOMKSTREAM', 'MAXLEN', '=', length + 1, id, 't', t, 'e', event)
  end
  if not h[1] then redis.call('UNLINK', log) end
  local first = last - count + 1
  if not h[1] or not add(1, false) then
    redis.call('HSET', meta, 'b', int(before) .. '-' .. (h[3] or '0'))
    add(1, true)
    first, due = math.max(first, before + 1), true
  elseif tonumber(h[6] or 0) > first then
    first = h[6]
  end
  for i = 2, n do add(i, true) end
  if due or tonumber(h[5] or 0) ~= age then redis.call('PEXPIRE', log, int(age + math.ceil(age / 8))) end
  redis.call('HSET', meta, 'e', epoch, 'o', int(last), 'c', of[at + n - 1], 'r', int(length), 'a', int(age), 'f', int(first))
  if last % 16 < n then age_out(log, time, age) end
  return epoch, int(before + 1)
end

-- As `keep` for one event; answers its position.
local function keep_one(meta, log, seed, check, event, count, age)
  local epoch, offset = keep(meta, log, read(meta), seed, 1, {check, event}, 1, count, age, true)
  return epoch .. '-' .. offset .. '-' .. check
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
