-- The first call on a new connection. A Redis that the log does not know, because it was restarted or another one took over, may have
-- lost the last entries. Appends are then suspended for a moment, so that a node that still has these entries can restore
-- them before another node continues the log without them. If it knows an older part of the log, they are suspended three
-- times as long, and no node attaches for a lease. All nodes get a new lease: they could not renew theirs.
--
-- ARGV[4]  for how long to suspend appends, in microseconds
-- ARGV[5]  the run id of this Redis. Empty: as INFO says. Only tests pass one.
--
-- Reply: OK, the microseconds until appends are allowed, and the index of the last entry.

local run_id = ARGV[5]
if run_id == '' then
  run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
end
if run ~= run_id then
  local span = tonumber(ARGV[4])
  -- Perhaps an older part of the log: the nodes may need a while to notice that the Redis with the rest is gone.
  if index > 0 then span = span * 3 end
  frozen, guarded = now + span, now + LEASE
  redis.call('HSET', HEAD, 'run', run_id, 'frozen', text(frozen), 'guarded', text(guarded))
  see()
  renew_all()
end
return {'OK', text(frozen_for()), text(index)}
