-- Ends a channel. KEYS channel, connected, due, topics. ARGV channel, the claim's time, then: 'fence', the generation
-- and the claimant; 'due', '' and ''; 'orphan', the generation and the node that died. Then, optional: the time for
-- which channels of unknown endpoints are left to other nodes, and the known endpoints. Answers {record, topics}, or {}
-- if there is nothing to claim.
local r = redis.call('HMGET', KEYS[1], 'g', 'p', 'n', 'r', 'c', 'e')
local generation, phase, node = r[1], r[2], r[3]
local score = redis.call('ZSCORE', KEYS[3], ARGV[1])
local over = score and tonumber(score) <= now()
if not generation then
  redis.call('ZREM', KEYS[3], ARGV[1])
  if ARGV[3] == 'orphan' then redis.call('ZREM', KEYS[2], ARGV[5] .. '\0' .. ARGV[1]) end
  return {}
end
local served = not ARGV[6]
for n = 7, #ARGV do served = served or ARGV[n] == r[6] end
local claimant = ''
if ARGV[3] == 'fence' then
  claimant = ARGV[5]
  if phase == 'x' and generation == int(ARGV[4] + 1) and r[5] == claimant then
    -- The same call again, after its answer was lost.
    generation = ARGV[4]
  elseif generation ~= ARGV[4] or (phase == 'x' and not over) then
    return {}
  end
elseif ARGV[3] == 'due' then
  if not over or not (served or score + ARGV[6] <= now()) then return {} end
else
  if generation ~= ARGV[4] or node ~= ARGV[5] or phase == 'd' or phase == 'x' then return {} end
  if phase == 'O' and r[4] then
    detach(KEYS[1], KEYS[2], KEYS[3], ARGV[1], node, r[4])
    return {}
  end
  if not served then
    bury(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], int(generation + 1), node, claimant, 0)
    return {}
  end
end
return bury(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], int(generation + 1), node, claimant, ARGV[2])
