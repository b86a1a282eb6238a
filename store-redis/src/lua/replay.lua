-- KEYS meta, log. ARGV new epoch, epoch, offset, check, limit.
return replay(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
