#!/usr/bin/env python3
"""Sets the wall clock of a running server forward and back. Only the expiry of tokens and `server_time` may follow it.

    tests/clients/wall_clock.py [path/to/lobbyd]

The server runs with libfaketime, which changes the wall clock that it reads, and not the monotonic clock. Installs Debian's
libfaketime with apt-get if it is missing. Exit 0 only if all checks pass. Standard library only.
"""

import glob
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

from frames import TEXT, frame, frames, request
from lobbyd import Lobbyd, default_binary

LIBRARY = "/usr/lib/*/faketime/libfaketime.so.1"
TOKEN = "a-token-of-ann-1234"
# Longer than this takes, and shorter than the step.
LIFETIME = 1800
HOUR = 3600


def library():
    if not glob.glob(LIBRARY):
        subprocess.run([os.path.join(os.path.dirname(os.path.abspath(__file__)), "../install"), "libfaketime"], check=True)
    return glob.glob(LIBRARY)[0]


class Member:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.sendall(request(port, "chess", TOKEN))
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            data = self.socket.recv(65536)
            assert data, "the connection ended without an answer"
            self.data += data
        self.data = self.data.split(b"\r\n\r\n", 1)[1]

    def read(self, kinds):
        """The next message whose type is one of `kinds`."""
        while True:
            found, self.data = frames(self.data)
            for opcode, payload in found:
                if opcode == TEXT and (message := json.loads(payload))["type"] in kinds:
                    return message
            data = self.socket.recv(65536)
            assert data, "the connection ended without a word"
            self.data += data

    def server_time(self):
        self.socket.sendall(frame(TEXT, b'{"type":"ping"}'))
        return self.read(["pong"])["server_time"] / 1000


def check(binary, folder):
    clock, tokens = os.path.join(folder, "clock"), os.path.join(folder, "tokens")

    def set_clock(seconds):
        # The library must never see half a file.
        with open(clock + ".new", "w") as file:
            file.write(f"{seconds:+d}\n")
        os.rename(clock + ".new", clock)

    set_clock(0)
    with open(tokens, "w") as file:
        file.write(f"{TOKEN} ann expires={int(time.time() + LIFETIME) * 1000}\n")
    os.environ.update(LD_PRELOAD=library(), FAKETIME_TIMESTAMP_FILE=clock, FAKETIME_NO_CACHE="1", DONT_FAKE_MONOTONIC="1")
    try:
        server = Lobbyd(binary, "--auth", "tokens", "--tokens-file", tokens, "--token-grace", "0s",
                        # Longer than this takes, and shorter than the step: nobody answers pings here.
                        "--ping-interval", "30m")
    finally:
        del os.environ["LD_PRELOAD"]
    with server:
        member = Member(server.port)
        assert member.read(["welcome", "goodbye"])["type"] == "welcome", "a good token is let in"
        before, server_time = time.time(), member.server_time()
        assert before - 2 < server_time < time.time() + 2, (before, server_time)

        set_clock(-HOUR)
        # The server looks at the wall clock at most every 10 ms.
        end = time.monotonic() + 60
        while abs(ahead := member.server_time() - time.time() + HOUR) > 2:
            assert time.monotonic() < end, f"server_time does not follow the clock back: {ahead}"
            time.sleep(0.02)

        set_clock(HOUR)
        goodbye = member.read(["goodbye"])
        assert goodbye["reason"] == "token_expired", goodbye
        assert Member(server.port).read(["welcome", "goodbye"])["reason"] == "token_expired", "an expired token is refused"

        set_clock(0)
        end = time.monotonic() + 60
        while Member(server.port).read(["welcome", "goodbye"])["type"] != "welcome":
            assert time.monotonic() < end, "the token is good again"
            time.sleep(0.02)
        stale = re.findall(r"\b4201\b", server.log())
        assert not stale, "a step of the wall clock is no silence"


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else default_binary()
    with tempfile.TemporaryDirectory(prefix="lobbyd-clock-") as folder:
        check(binary, folder)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
