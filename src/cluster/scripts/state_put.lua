-- Stores one part of the state for a node that is attaching. It expires after two leases.
--
-- ARGV[4]  incarnation of the node that attaches. KEYS[4] is the key of its state.
-- ARGV[5]  incarnation of the node that provides the state
-- ARGV[6]  index of the entry after which the state is taken
-- ARGV[7]  number of this part, from 0
-- ARGV[8]  number of parts
-- ARGV[9]  the part
--
-- Reply: OK; or GONE, if the node that attaches is not attached any more, or another node has provided a state since the
-- first part.

if not get_node(ARGV[4]) then return {'GONE'} end
if ARGV[7] == '0' then
  redis.call('DEL', KEYS[4])
  redis.call('HSET', KEYS[4], 'from', ARGV[5], 'index', ARGV[6], 'parts', ARGV[8])
elseif redis.call('HGET', KEYS[4], 'from') ~= ARGV[5] then
  return {'GONE'}
end
redis.call('HSET', KEYS[4], ARGV[7], ARGV[9])
redis.call('PEXPIRE', KEYS[4], text(LEASE * 2 / 1000))
return {'OK'}
