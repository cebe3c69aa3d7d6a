-- Gives entries back that Redis has lost in a failover. The caller knows the entry that is now the last one, and those after it.
-- A log that was lost as a whole is restored from the first entry that the caller still has.
--
-- ARGV[4]  index of the entry before the first one to restore
-- ARGV[5]  its hash
-- ARGV[6]  number of nodes that were attached after that entry; 3 arguments for each follow:
--          incarnation, number of its last batch, name. They are used for a blank log only.
-- ARGV     then the fingerprint, also for a blank log only, and the entries
--
-- Reply: OK and the index of the last entry; or AGAIN, if the log does not end with the entry of ARGV[4]. Then nothing has changed,
-- and the caller asks `since` what the log is.
-- Appends may be suspended: restoring is what they are suspended for. Restored nodes get a new lease.

local base_index, base_hash = tonumber(ARGV[4]), ARGV[5]
local count = tonumber(ARGV[6])
local first = 7 + 3 * count

if index == 0 then
  redis.call('DEL', LOG, NODES)
  -- Other nodes may know more, and need a while to come.
  redis.call('HSET', HEAD, 'index', text(base_index), 'hash', base_hash, 'fingerprint', ARGV[first], 'guarded', text(now + LEASE))
  index, hash = base_index, base_hash
  for i = 7, first - 1, 3 do
    put_node({incarnation = tonumber(ARGV[i]), lease = now + LEASE, batch = tonumber(ARGV[i + 1]), ready = true, name = ARGV[i + 2]})
  end
elseif index ~= base_index or hash ~= base_hash then
  return {'AGAIN'}
end

see()
for i = first + 1, #ARGV do
  local entry = ARGV[i]
  add(entry)
  local kind, incarnation, rest = string.match(entry, '^(%u) %d+ ?(%d*) ?(.*)$')
  if kind == 'F' then
    redis.call('DEL', NODES)
  elseif kind == 'A' then
    put_node({incarnation = tonumber(incarnation), lease = now + LEASE, batch = 0, ready = false, name = rest})
  elseif kind == 'E' then
    redis.call('HDEL', NODES, incarnation)
  elseif kind == 'O' then
    local node = get_node(incarnation)
    if node then
      node.batch, node.lease, node.ready = tonumber(string.match(rest, '^%d+')), now + LEASE, true
      put_node(node)
    end
  end
end
return {'OK', text(index)}
