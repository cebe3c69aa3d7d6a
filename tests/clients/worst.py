#!/usr/bin/env python3
"""Fills all buffers of the maximum number of sockets, and compares the server's memory with the bound in its log.

    tests/clients/worst.py [--conns 500] [path/to/lobbyd]

Each lobby has a sender and a receiver, so that no queued frame is shared. The receiver never reads, and has sent all but the last
byte of the largest message. Further connections without a seat have sent all but the last byte of the longest request head. Exit 0
only if the server's resident memory stayed below the figure in its log, and the server still admits a new client.

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
PENDING = 255                   # max_pending, less one for the client that joins at the end


def connect(port, lobby=None, user=None):
    peer = socket.socket()
    # As small as the kernel allows, so that the server's queue fills and not the client's buffer.
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    peer.connect(("127.0.0.1", port))
    peer.settimeout(30)
    if lobby:
        peer.sendall(request(port, lobby, user))
        received = b""
        while b"\r\n\r\n" not in received:
            piece = peer.recv(1)
            assert piece, "the server has refused a connection"
            received += piece
    return peer


def frame(first, payload, length=None):
    length = length or len(payload)
    # The server takes only the shortest form of a length.
    head = bytes([0xFE]) + length.to_bytes(2, "big") if length < 65_536 else bytes([0xFF]) + length.to_bytes(8, "big")
    return bytes([first]) + head + bytes(4) + payload


def resident(pid, field):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(re.search(rf"{field}:\s+(\d+) kB", status.read()).group(1)) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conns", type=int, default=500)
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with Lobbyd(options.lobbyd, "--app", "verbatim", "--max-connections", options.conns + 1,
                "--bytes-per-second", "unlimited", "--messages-per-second", "unlimited", "--log", "warn,lobbyd=info") as server:
        bound = int(server.wait_for_log(r"worst-case memory with these limits: (\d+) MiB", 60).group(1))
        before = resident(server.pid, "VmRSS")
        sinks = [connect(server.port, f"l{n}", f"sink{n}") for n in range(options.conns // 2)]
        talkers = [connect(server.port, f"l{n}", f"talker{n}") for n in range(options.conns // 2)]
        pending = [connect(server.port) for _ in range(PENDING)]
        for peer in pending:
            peer.sendall(b"GET /" + b"x" * (HEAD - 6))
        for sink in sinks:
            sink.sendall(frame(0x82, b"s" * (MESSAGE - 1), MESSAGE))
        peak, closed, sent = 0, 0, 0
        message = frame(0x82, b"m" * 50_000)
        # Until the server has closed a connection: then the queues are as full as possible.
        while closed == 0 and sent < 2000:
            for talker in talkers:
                talker.sendall(message)
            sent += 1
            peak = max(peak, resident(server.pid, "VmRSS"))
            closed = server.log().count("slow_consumer")
        time.sleep(1)
        peak = max(peak, resident(server.pid, "VmHWM"))
        connect(server.port, "late", "late").close()
        print(f"{options.conns} members and {len(pending)} connections without a seat: {before:.1f} MiB before, {peak:.1f} MiB at most after "
              f"{sent} messages each; the log states a bound of {bound} MiB; closed as too slow: {server.log().count('slow_consumer')}")
        if closed == 0 or peak >= bound:
            sys.exit("failed: " + ("no queue was full" if closed == 0 else "the memory exceeds its bound"))


if __name__ == "__main__":
    main()
