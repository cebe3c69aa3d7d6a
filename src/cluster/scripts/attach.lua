-- Attaches a node: it gets an incarnation and a lease, and `A` is appended. If no other node has the state of
-- the cluster, nobody could provide it: all other nodes end, `F` comes before `A`, and the log begins anew. A node of the same name is
-- an earlier life of this process: it ends first.
--
-- KEYS[4]  begin of the keys of states: the incarnation follows
-- ARGV[4]  name of the node, and its URL after a space if it has one
-- ARGV[5]  fingerprint of its configuration
-- ARGV[6]  1 if this process has seen the log of this cluster before
-- ARGV[7]  index of the last entry at the `hello` of this connection, or the caller's last incarnation if that is larger. A node of the same
--          name that has attached after it is a later life of this process, or a later connection of it: the call was under way for long.
--          Missing: not known.
--
-- Reply: OK, the incarnation, the index and the hash of the entry after which the node begins, 1 if the log begins anew or 0,
-- and for each node, as of this entry: incarnation, number of its last batch, name.
-- A node that begins anew begins before `F`, any other begins after its `A`, with the state that another node provides.
-- Refused: STALE, if the call is older than the node of its name; FROZEN, GUARDED; or FINGERPRINT and that of the cluster, if other nodes have another configuration.

local name, own_fingerprint = ARGV[4], ARGV[5]

local function is_same(node)
  return string.match(node.name, '^%S+') == string.match(name, '^%S+')
end

local known_index = tonumber(ARGV[7] or '')
for _, node in ipairs(nodes()) do
  if known_index and is_same(node) and node.incarnation > known_index then return {'STALE'} end
end

local refusal = check_frozen()
-- A blank log may be founded at once by a node that does not know that there was another one.
if not refusal and (index > 0 or ARGV[6] == '1') then refusal = check_guarded() end
if refusal then return refusal end

local others = 0
for _, node in ipairs(nodes()) do
  if not is_same(node) and node.ready and (node.lease >= now or is_stalled()) then others = others + 1 end
end
if others > 0 and fingerprint and fingerprint ~= own_fingerprint then return {'FINGERPRINT', fingerprint} end

reap()
local is_first = others == 0
for _, node in ipairs(nodes()) do
  if is_first or is_same(node) then end_node(node) end
end
if index == 0 then redis.call('DEL', LOG) end

local begin_index, begin_hash = index, hash
if is_first then
  redis.call('HSET', HEAD, 'fingerprint', own_fingerprint, 'guarded', '0')
  add('F ' .. text(now))
end
local incarnation = index + 1
add('A ' .. text(now) .. ' ' .. text(incarnation) .. ' ' .. name)
put_node({incarnation = incarnation, lease = now + LEASE, batch = 0, ready = is_first, name = name})
-- A lost log may have had the same incarnation.
redis.call('DEL', KEYS[4] .. text(incarnation))

if is_first then return {'OK', text(incarnation), text(begin_index), begin_hash, '1'} end
local reply = {'OK', text(incarnation), text(index), hash, '0'}
for _, node in ipairs(nodes()) do
  reply[#reply + 1] = text(node.incarnation)
  reply[#reply + 1] = text(node.batch)
  reply[#reply + 1] = node.name
end
return reply
