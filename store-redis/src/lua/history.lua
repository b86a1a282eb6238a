-- The last kept events, the last first. KEYS meta, log. ARGV limit, up to which id or '+'. Answers {epoch, id, event,
-- id, event, …}.
local h = read(KEYS[1])
if not h[4] then return {} end
local answer, time = {h[1]}, now()
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[2], ARGV[2], h[6] .. '-0', 'COUNT', ARGV[1])) do
  if entry[2][2] + h[5] <= time then break end
  answer[#answer + 1] = entry[1]
  answer[#answer + 1] = entry[2][4]
end
return answer
