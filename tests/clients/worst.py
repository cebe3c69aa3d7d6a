#!/usr/bin/env python3
"""Every socket there may be, each with all buffers full and none of them read: does memory stay below what was said?

    tests/clients/worst.py [--conns 500] [path/to/lobbyd]

Half of the members talk to the other half, each to one of its own, so that nothing that is queued is shared; whoever is
talked to never reads, and has sent all but the last byte of the largest message. Strangers hold all but the last byte of the
longest request head. Exit 0 only if the server's resident memory stayed below the figure in its log, and it still lets
somebody in.

Needs Linux. Standard library only.
"""

import argparse
import re
import resource
import socket
import sys
import time

from frames import request
from lobbyd import Lobbyd, default_binary

MESSAGE = 64 * 1024             # max_message_bytes
HEAD = 8 * 1024                 # max_header_bytes
PENDING = 255                   # max_pending, but for whoever comes in at the end


def connect(port, lobby=None, user=None):
    peer = socket.socket()
    # As little as the kernel allows: what the server queues is what is to be filled.
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    peer.connect(("127.0.0.1", port))
    peer.settimeout(30)
    if lobby:
        peer.sendall(request(port, lobby, user))
        received = b""
        while b"\r\n\r\n" not in received:
            received += peer.recv(1)
    return peer


def frame(first, payload, length=None):
    return bytes([first, 0xFF]) + (length or len(payload)).to_bytes(8, "big") + bytes(4) + payload


def resident(pid, what):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(re.search(rf"{what}:\s+(\d+) kB", status.read()).group(1)) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conns", type=int, default=500)
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with Lobbyd(options.lobbyd, "--app", "verbatim", "--max-connections", options.conns + 1,
                "--bytes-per-second", "unlimited", "--messages-per-second", "unlimited", "--log", "warn,lobbyd=info") as server:
        bound = int(server.wait_for_log(r"at the very worst (\d+) MiB", 5).group(1))
        before = resident(server.pid, "VmRSS")
        sinks = [connect(server.port, f"l{n}", f"sink{n}") for n in range(options.conns // 2)]
        talkers = [connect(server.port, f"l{n}", f"talker{n}") for n in range(options.conns // 2)]
        strangers = [connect(server.port) for _ in range(PENDING)]
        for stranger in strangers:
            stranger.sendall(b"GET /" + b"x" * (HEAD - 6))
        for sink in sinks:
            sink.sendall(frame(0x82, b"s" * (MESSAGE - 1), MESSAGE))
        peak, closed, sent = 0, 0, 0
        message = frame(0x82, b"m" * 50_000)
        # Until the server has ended somebody: then the queues are as full as they get.
        while closed == 0 and sent < 2000:
            for talker in talkers:
                talker.sendall(message)
            sent += 1
            peak = max(peak, resident(server.pid, "VmRSS"))
            closed = server.log().count("slow_consumer")
        time.sleep(1)
        peak = max(peak, resident(server.pid, "VmHWM"))
        connect(server.port, "late", "late").close()
        print(f"{options.conns} members and {len(strangers)} strangers: {before:.1f} MiB before, {peak:.1f} MiB at most after "
              f"{sent} messages each; {bound} MiB were announced; closed as too slow: {server.log().count('slow_consumer')}")
        if closed == 0 or peak >= bound:
            sys.exit("failed: " + ("nobody's queue was full" if closed == 0 else "memory beyond its bound"))


if __name__ == "__main__":
    main()
