#!/usr/bin/env python3
"""Measures the server's memory for members with and without a session, with full histories, and away.

    tests/clients/session_memory.py [--members 4000] [path/to/lobbyd]

The members sit in lobbies of 8 and speak JSON. Prints a table: the growth of the server's resident memory, by seat and by lobby.
Only the first figure is checked: a seat without a session must cost no more than `idle.py` allows, so sessions cost nothing to
clients that have none. Needs Linux. Standard library only.
"""

import argparse
import json
import resource
import sys
import time

import idle
from frames import TEXT, frame
from lobbyd import Lobbyd, default_binary

LOBBY_SIZE = idle.LOBBY_SIZE
HISTORY_BYTES, DIRECT_BYTES, DIRECT_FRAMES = 64 * 1024, 16 * 1024, 32
SESSION_REQUEST = ("GET /ws/crowd-{lobby}?token=idle-{number}&session=session-of-idle-{number:08} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                   "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                   "Sec-WebSocket-Version: 13\r\n\r\n")


class Crowd(idle.Crowd):
    """The connections of idle.py, with sessions if wanted."""

    def __init__(self, port, count, has_sessions):
        super().__init__(port, count)
        self.has_sessions = has_sessions
        self.numbers = {}               # by descriptor

    def connected(self, fd):
        self.numbers[fd] = self.unwelcomed[fd]
        if not self.has_sessions:
            return super().connected(fd)
        number = self.unwelcomed[fd]
        request = SESSION_REQUEST.format(lobby=number // LOBBY_SIZE, number=number, port=self.port)
        self.sockets[fd].send(request.encode())
        self.partial[fd] = b""
        self.epoll.modify(fd, idle.select.EPOLLIN)

    def say(self, fd, message):
        self.sockets[fd].sendall(frame(TEXT, json.dumps(message).encode()))

    def fill(self, directs):
        """Fills the history of each lobby, or that of the direct messages of each member."""
        for turn in range(DIRECT_FRAMES + 4 if directs else HISTORY_BYTES // 500 + 10):
            for fd, number in self.numbers.items():
                if directs:
                    neighbour = number ^ 1
                    self.say(fd, {"type": "direct", "to": f"idle-{neighbour}", "data": "d" * (DIRECT_BYTES // DIRECT_FRAMES)})
                elif number % LOBBY_SIZE == 0:
                    self.say(fd, {"type": "broadcast", "data": "b" * 500})
                if number % 64 == 0:
                    self.turn(0)
            while self.turn(0):
                pass
        self.rest()

    def rest(self):
        """Until nothing arrives any more."""
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 0.5:
            if self.turn(0.1):
                quiet_since = time.monotonic()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("lobbyd", nargs="?", default=default_binary())
    options.add_argument("--members", type=int, default=4000)
    args = options.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))        # lobbyd inherits it
    server_args = ["--max-connections", args.members + 100, "--max-per-lobby", LOBBY_SIZE, "--max-lobbies", args.members,
                   "--max-pending", 1024, "--max-closing", args.members + 100, "--messages-per-second", "unlimited", "--bytes-per-second",
                   "unlimited", "--ping-interval", "60s", "--seat-grace", "60s"]
    passed, lobbies = True, args.members // LOBBY_SIZE
    print("| members | bytes each | bytes for each lobby of 8 |\n| --- | ---: | ---: |")

    def row(name, grown):
        print(f"| {name} | {grown / args.members:,.0f} | {grown / lobbies:,.0f} |", flush=True)
        return grown / args.members

    for has_sessions in False, True:
        with Lobbyd(args.lobbyd, *server_args) as server:
            # Code and buffers that all connections share are not measured.
            idle.connect_once(server.port, "first")
            time.sleep(0.5)
            before = idle.resident_bytes(server.pid)
            crowd = Crowd(server.port, args.members, has_sessions)
            crowd.open()
            if crowd.lost:
                sys.exit(f"session_memory.py: {len(crowd.lost)} members were refused or lost: {crowd.lost[0]}")
            name = "with a session" if has_sessions else "without a session"
            each = row(f"idle, {name}", idle.resident_bytes(server.pid) - before)
            if not has_sessions:
                passed = each <= idle.MAX_BYTES_PER_CONNECTION
                continue
            crowd.fill(directs=False)
            row("… and a full history of the lobby", idle.resident_bytes(server.pid) - before)
            crowd.fill(directs=True)
            row("… and a full history of direct messages", idle.resident_bytes(server.pid) - before)
            crowd.cut(reset=True)
            time.sleep(2)
            row("… and away", idle.resident_bytes(server.pid) - before)
            # The memory limit in the log includes all of this.
            print(server.wait_for_log(r"worst-case memory with these limits: .*", 5).group(0))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
