-- Returns the entries after one that a node knows.
--
-- ARGV[4]  incarnation
-- ARGV[5]  index of the last entry that the node knows
-- ARGV[6]  its hash
-- ARGV[7]  number of bytes after which no further entry is returned. At least one entry is, if there is any.
--
-- Reply: OK, the index of the last entry of the log, and then for each entry its hash and the entry itself.
-- Refused: AHEAD, FORK, TRIMMED, GONE.

local refusal = check_position(ARGV[5], ARGV[6])
if refusal then return refusal end
if not get_node(ARGV[4]) then return {'GONE'} end

local reply, bytes, last = {'OK', text(index)}, 0, tonumber(ARGV[5])
while last < index do
  for _, item in ipairs(redis.call('XRANGE', LOG, text(last + 1), '+', 'COUNT', 64)) do
    last = last + 1
    if item[1] ~= text(last) .. '-0' then return {'TRIMMED'} end
    reply[#reply + 1] = item[2][2]
    reply[#reply + 1] = item[2][4]
    bytes = bytes + #item[2][4] + 64
    if bytes >= tonumber(ARGV[7]) then return reply end
  end
end
return reply
