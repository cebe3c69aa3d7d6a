-- Appends a batch of operations of a node, and renews its lease. Batches of an incarnation are numbered from 1: each is appended once and
-- in order, whatever was lost in between.
--
-- ARGV[4]  incarnation
-- ARGV[5]  index of the last entry that the node knows
-- ARGV[6]  its hash
-- ARGV[7]  number of the batch
-- ARGV[8]  the operations
--
-- Reply: OK and the index of the entry; DUPLICATE, if the log has the batch already; or MISSING and the number of
-- the last batch, if batches before this one are missing.
-- Refused: AHEAD, FORK, TRIMMED, GONE, FROZEN. Only a node that knows a prefix of this log may append to it: after a failover this decides
-- which nodes belong to the log, and a caller cannot be confused with a node of the same incarnation in a lost log.

local refusal = check_position(ARGV[5], ARGV[6])
if refusal then return refusal end
local node = get_node(ARGV[4])
if not node then return {'GONE'} end
refusal = check_frozen()
if refusal then return refusal end

local batch = tonumber(ARGV[7])
if batch <= node.batch then return {'DUPLICATE'} end
if batch > node.batch + 1 then return {'MISSING', text(node.batch)} end

-- After a time in which no node was seen, all nodes get a new lease, not only the one that calls first.
if is_stalled() then renew_all() end
see()
add('O ' .. text(now) .. ' ' .. ARGV[4] .. ' ' .. ARGV[7] .. ' ' .. ARGV[8])
node.batch, node.lease, node.ready = batch, now + LEASE, true
put_node(node)
return {'OK', text(index)}
