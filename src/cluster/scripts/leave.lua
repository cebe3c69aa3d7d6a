-- Detaches a node at its own request.
--
-- ARGV[4]  incarnation
-- ARGV[5]  index of the last entry that the node knows
-- ARGV[6]  its hash
--
-- Reply: OK.
-- Refused: AHEAD, FORK, TRIMMED, GONE, FROZEN.

local refusal = check_position(ARGV[5], ARGV[6])
if refusal then return refusal end
local node = get_node(ARGV[4])
if not node then return {'GONE'} end
refusal = check_frozen()
if refusal then return refusal end

end_node(node)
return {'OK'}
