-- One page of a topic's indexed (m) or present (p) members. KEYS the list, rows. ARGV after which row, limit, m or p.
-- Answers {row, channel, the row's content, …}.
local answer = {}
local found = redis.call('ZRANGE', KEYS[1], '(' .. ARGV[1], '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
for i = 1, #found, 2 do
  answer[#answer + 1] = found[i + 1]
  answer[#answer + 1] = found[i]
  answer[#answer + 1] = redis.call('HGET', KEYS[2], ARGV[3] .. found[i])
end
return answer
