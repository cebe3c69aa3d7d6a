-- Common beginning of all scripts of a lobbyd cluster. It is put before each of them.
--
-- KEYS[1]  head   hash: state of the log (see below)
-- KEYS[2]  log    stream: entries of the log. Its key is also the name of the channel on which they are published.
-- KEYS[3]  nodes  hash: attached nodes
-- KEYS[4]  state  only for state_put and state_get: hash with the state for a node that is attaching
-- ARGV[1]  the time in microseconds since the Unix epoch. Empty: the clock of Redis. Only tests pass a time.
-- ARGV[2]  length of a lease in microseconds
-- ARGV[3]  how much the stream keeps: a number of entries, to which Redis may add some, a space, and how many bytes the entries after
--          the first one may have
--
-- Fields of head:
--   index        index of the last entry, from 1 without gaps. 0 or missing: the log is blank.
--   hash         hash of the last entry, 16 hex digits: the first 8 bytes of sha1(hash of the entry before .. entry)
--   fingerprint  configuration that all nodes must share, as the first node of the log has passed it
--   run          run id of the Redis that was last accepted by `hello`
--   frozen       time until which nothing but `restore` may append
--   guarded      time until which no node may attach
--   seen         last time at which a node has renewed its lease
--   written      bytes of all entries that were appended
--
-- Fields of nodes: the incarnation of a node, which is the index of its entry `A`. Values: "LEASE BATCH READY NAME": the end of
-- its lease, the number of its last batch, 1 if it has the state of the cluster (0 while it waits for it), and its name.
--
-- Items of the stream: the id is INDEX-0, the fields are h (hash), e (entry) and w (`written`, with this entry). Entries begin with a letter and the time:
--   F TIME                           the log begins, or begins anew without nodes
--   A TIME INCARNATION NAME          a node has attached
--   E TIME INCARNATION               a node has ended: it has left, was replaced, or its lease has expired
--   O TIME INCARNATION BATCH BYTES   operations of a node
-- Published: "INDEX HASH ENTRY", and "P INCARNATION NUMBER" for the probe of a node.
--
-- Replies are arrays that begin with a word. OK is followed by the result. These words refuse the call, and the log has not changed:
--   AHEAD INDEX HASH    the caller knows entries after the last one, INDEX. Redis has lost them: the caller can restore them.
--   FORK                the log differs from what the caller knows
--   TRIMMED             the stream no longer has the entries after what the caller knows
--   GONE                the caller is not attached any more
--   FROZEN MICROS       appends are suspended for this time
--   GUARDED MICROS      no node attaches for this time
--
-- Numbers of Lua are doubles: times and indices are exact up to 2^53. They become text by `text` only, since tostring writes
-- large ones in exponential form.

local HEAD, LOG, NODES = KEYS[1], KEYS[2], KEYS[3]
local LEASE = tonumber(ARGV[2])
local KEPT, KEPT_BYTES = string.match(ARGV[3], '^(%d+) (%d+)$')
local BLANK_HASH = '0000000000000000'

local function text(number)
  return string.format('%.0f', number)
end

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local fields = redis.call('HMGET', HEAD, 'index', 'hash', 'fingerprint', 'run', 'frozen', 'seen', 'written', 'guarded')
local index = tonumber(fields[1] or 0)
local hash = fields[2] or BLANK_HASH
local fingerprint, run = fields[3], fields[4]
local frozen = tonumber(fields[5] or 0)
local seen = tonumber(fields[6] or 0)
local written = tonumber(fields[7] or 0)
local guarded = tonumber(fields[8] or 0)

-- Returns the hash of an entry that follows one with the hash `before`.
local function chained(before, entry)
  return string.sub(redis.sha1hex(before .. entry), 1, 16)
end

-- Removes the first entries while those after them have too many bytes.
local function trim()
  local first = redis.call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  while written - tonumber(first[2][6]) > tonumber(KEPT_BYTES) do
    redis.call('XDEL', LOG, first[1])
    first = redis.call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  end
end

-- Appends an entry and publishes it. A failing XADD ends the script before anything has changed.
local function add(entry)
  local next_hash = chained(hash, entry)
  written = written + #entry
  redis.call('XADD', LOG, 'MAXLEN', '~', KEPT, text(index + 1) .. '-0', 'h', next_hash, 'e', entry, 'w', text(written))
  index, hash = index + 1, next_hash
  redis.call('HSET', HEAD, 'index', text(index), 'hash', hash, 'written', text(written))
  trim()
  redis.call('PUBLISH', LOG, text(index) .. ' ' .. hash .. ' ' .. entry)
end

local function parse_node(incarnation, value)
  local lease, batch, ready, name = string.match(value, '^(%d+) (%d+) ([01]) (.*)$')
  return {
    incarnation = tonumber(incarnation),
    lease = tonumber(lease),
    batch = tonumber(batch),
    ready = ready == '1',
    name = name,
  }
end

-- Returns all nodes by rising incarnation.
local function nodes()
  local list, flat = {}, redis.call('HGETALL', NODES)
  for i = 1, #flat, 2 do
    list[#list + 1] = parse_node(flat[i], flat[i + 1])
  end
  table.sort(list, function(a, b) return a.incarnation < b.incarnation end)
  return list
end

local function put_node(node)
  local value = text(node.lease) .. ' ' .. text(node.batch) .. (node.ready and ' 1 ' or ' 0 ') .. node.name
  redis.call('HSET', NODES, text(node.incarnation), value)
end

-- Returns a node, or nil if it is not attached.
local function get_node(incarnation)
  local value = redis.call('HGET', NODES, incarnation)
  if not value then return nil end
  return parse_node(incarnation, value)
end

local function end_node(node)
  redis.call('HDEL', NODES, text(node.incarnation))
  add('E ' .. text(now) .. ' ' .. text(node.incarnation))
end

local function see()
  seen = now
  redis.call('HSET', HEAD, 'seen', text(now))
end

-- Gives every node a whole lease.
local function renew_all()
  for _, node in ipairs(nodes()) do
    node.lease = now + LEASE
    put_node(node)
  end
end

-- Whether no node at all was seen for half a lease: Redis was stopped, or nobody could reach it. If its clock was set back, leases say as
-- little.
local function is_stalled()
  return now < seen or now - seen > LEASE / 2
end

-- Ends the nodes whose lease has expired. If Redis was stalled, the nodes are not at fault, and get a new lease instead.
local function reap()
  local stalled = is_stalled()
  see()
  if stalled then
    renew_all()
    return
  end
  for _, node in ipairs(nodes()) do
    if node.lease < now then end_node(node) end
  end
end

-- Compares what the caller knows, the index and the hash of an entry, with the log. Returns nil if the log continues it,
-- or the reply that refuses the call.
local function check_position(known_index, known_hash)
  known_index = tonumber(known_index)
  if known_index == index then
    if known_hash == hash then return nil end
    return {'FORK'}
  end
  if known_index > index then return {'AHEAD', text(index), hash} end
  local item = redis.call('XRANGE', LOG, text(known_index + 1), '+', 'COUNT', 1)[1]
  if not item or item[1] ~= text(known_index + 1) .. '-0' then return {'TRIMMED'} end
  if chained(known_hash, item[2][4]) ~= item[2][2] then return {'FORK'} end
  return nil
end

-- Returns the microseconds for which appends are suspended. They are never suspended for a lease: then the clock was set back.
local function frozen_for()
  if frozen > now and frozen - now <= LEASE then return frozen - now end
  return 0
end

-- Returns the reply that refuses to attach a node while that is suspended, or nil. A node that attaches knows no entries, so it
-- would continue a log whose last entries other nodes are about to restore.
local function check_guarded()
  if guarded > now and guarded - now <= LEASE then return {'GUARDED', text(guarded - now)} end
  return nil
end

-- Returns the reply that refuses an append while appends are suspended, or nil. If Redis itself was stopped in this time, nobody could
-- restore anything: appends are suspended anew. `seen` tells: the time ended after it, and long ago.
local function check_frozen()
  if frozen_for() == 0 and seen < frozen and now - seen > LEASE / 4 then
    frozen = now + math.floor(LEASE / 6)
    redis.call('HSET', HEAD, 'frozen', text(frozen))
    see()
  end
  if frozen_for() > 0 then return {'FROZEN', text(frozen_for())} end
  return nil
end
