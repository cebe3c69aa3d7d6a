-- Returns one part of the state for a node that is attaching. KEYS[4] is the key of its state.
--
-- ARGV[4]  number of the part, from 0
--
-- Reply: OK, the incarnation of the node that provides the state, the index of the entry after which it is taken, the number of parts,
-- and the part; or NONE, if the part is not there yet.

local state = redis.call('HMGET', KEYS[4], 'from', 'index', 'parts', ARGV[4])
if not (state[1] and state[4]) then return {'NONE'} end
return {'OK', state[1], state[2], state[3], state[4]}
