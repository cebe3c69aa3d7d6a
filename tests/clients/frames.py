"""WebSocket frames as bytes (RFC 6455 section 5.2), for scripts with more connections than a library can handle."""

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
REQUEST = ("GET /ws/{lobby}?token={user}{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
           "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")


def request(port, lobby, user, query=""):
    """Returns the request of a user for a lobby; `query` is what follows the token, with its `&`."""
    return REQUEST.format(port=port, lobby=lobby, user=user, query=query).encode()


def read_some(socket):
    """Returns bytes from a non-blocking socket, `b""` at the end of the stream, or None if there are none yet."""
    try:
        return socket.recv(262144)
    except BlockingIOError:
        return None


def frame(opcode, payload):
    """Returns a client frame. The mask key is 0, so that the payload is sent unchanged."""
    if len(payload) < 126:
        head = bytes([0x80 | opcode, 0x80 | len(payload)])
    else:
        head = bytes([0x80 | opcode, 0x80 | 126]) + len(payload).to_bytes(2, "big")
    return head + bytes(4) + payload


def frames(data):
    """Returns the complete server frames at the start of `data` as (opcode, payload), and the rest of `data`."""
    found, at = [], 0
    while len(data) - at >= 2:
        length, head = data[at + 1] & 0x7F, 2
        if length == 126:
            if len(data) - at < 4:
                break
            length, head = int.from_bytes(data[at + 2:at + 4], "big"), 4
        elif length == 127:
            if len(data) - at < 10:
                break
            length, head = int.from_bytes(data[at + 2:at + 10], "big"), 10
        if len(data) - at < head + length:
            break
        found.append((data[at] & 0x0F, data[at + head:at + head + length]))
        at += head + length
    return found, data[at:]
