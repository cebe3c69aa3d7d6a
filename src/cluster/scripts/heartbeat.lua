-- Renews the lease of a node, ends the nodes whose lease has expired, and publishes a probe, by which the node sees that its
-- subscription works.
--
-- ARGV[4]  incarnation
-- ARGV[5]  index of the last entry that the node knows
-- ARGV[6]  its hash
-- ARGV[7]  number of the probe
--
-- Reply: OK and the index of the last entry. The probe is published after this entry.
-- Refused: AHEAD, FORK, TRIMMED, GONE.

local refusal = check_position(ARGV[5], ARGV[6])
if refusal then return refusal end
local node = get_node(ARGV[4])
if not node then return {'GONE'} end

node.lease = now + LEASE
put_node(node)
reap()
redis.call('PUBLISH', LOG, 'P ' .. ARGV[4] .. ' ' .. ARGV[7])
return {'OK', text(index)}
