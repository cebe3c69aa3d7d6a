#!/usr/bin/env python3
"""Records four of the journals of tests/baseline: short sessions of different kinds. The fifth, addresses.journal, is of an
earlier build on purpose, and is not recorded again.

    tests/clients/baseline.py [path/to/lobbyd]

`cargo test baseline` replays them with every build, which shows that a change does not alter behaviour. Record them again when
behaviour changes on purpose. `requests.journal` is not recorded again: it has the answers of the first edition. Standard library only.
"""

import glob
import json
import os
import random
import re
import socket
import sys
import tempfile
import time

from frames import CLOSE, PING, PONG, TEXT, frame, frames, request
from lobbyd import Lobbyd, default_binary

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.normpath(os.path.join(HERE, "../baseline"))


class Client:
    """A member that answers pings and discards all other frames."""

    def __init__(self, server, lobby, user):
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        self.socket.sendall(request(server.port, lobby, user))
        self.data, self.is_open = b"", True
        while b"\r\n\r\n" not in self.data:
            data = self.socket.recv(65536)
            assert data, "the server has refused a connection"
            self.data += data
        self.data = self.data.split(b"\r\n\r\n", 1)[1]
        self.socket.setblocking(False)

    def send(self, *parts):
        if not self.is_open:
            return
        try:
            self.socket.setblocking(True)
            self.socket.sendall(b"".join(parts))
        except OSError:
            self.is_open = False
        finally:
            self.socket.setblocking(False)

    def say(self, kind, **fields):
        self.send(frame(TEXT, json.dumps({"type": kind, **fields}).encode()))

    def read(self):
        try:
            while data := self.socket.recv(65536):
                self.data += data
            self.is_open = False
        except BlockingIOError:
            pass
        except OSError:
            self.is_open = False
        found, self.data = frames(self.data)
        for opcode, payload in found:
            if opcode == PING:
                self.send(frame(PONG, payload))
            elif opcode == CLOSE:
                self.send(frame(CLOSE, payload[:2]))
            elif opcode == TEXT and b'"health_ping"' in payload:
                self.say("health_pong", timestamp=json.loads(payload)["timestamp"])

    def drop(self):
        self.socket.close()
        self.is_open = False


def talk(server, seconds, seed, users=16, between=lambda clients: None):
    """Members of three lobbies join, send messages of every kind, and leave."""
    numbers, clients, end = random.Random(seed), {}, time.monotonic() + seconds
    while time.monotonic() < end:
        user = f"user{numbers.randrange(users)}"
        client = clients.get(user)
        if client is None or not client.is_open:
            clients[user] = Client(server, numbers.choice(["chess", "go", "halma"]), user)
            continue
        action = numbers.randrange(14)
        number = numbers.randrange(1000)
        if action < 5:
            client.say("broadcast", data="x" * numbers.randrange(100), ref=number)
        elif action < 7:
            client.say("direct", to=f"user{numbers.randrange(users)}", data=[1, 2], ref=f"r{number}")
        elif action < 9:
            client.say("move", to="e4", ref=float(number))
        elif action == 9:
            client.say(numbers.choice(["presence", "ping"]), ref=number)
        elif action == 10:
            client.send(frame(2, bytes(range(numbers.randrange(200)))))
        elif action == 11:
            client.send(frame(PING, b"path"), frame(TEXT, b'{"type":'))
        elif action == 12 and number % 4 == 0:
            client.say("leave", ref=number)
        elif action == 13 and number % 8 == 0:
            client.drop()
        elif action == 13 and number % 8 == 1:
            client.send(frame(CLOSE, (1000).to_bytes(2, "big")))
        between(list(clients.values()))
        for other in clients.values():
            other.read()
        time.sleep(0.002)


def soak(server):
    talk(server, 2, 1)


def ticks(server):
    talk(server, 2, 2)


def floods(server):
    numbers = random.Random(3)
    clients = [Client(server, "flood", f"user{n}") for n in range(4)]
    for _ in range(120):
        for client in clients:
            kind = numbers.randrange(6)
            if kind < 2:
                client.send(*[frame(TEXT, b'{"type":"broadcast","data":1}')] * 10)
            elif kind == 2:
                client.send(*[frame(PING, b"")] * 20)
            elif kind == 3:
                client.send(frame(TEXT, b'{"type":"broadcast","data":"' + b"y" * 1500 + b'"}'))
            elif kind == 4:
                client.send(frame(TEXT, b"no json"))
            elif numbers.randrange(20) == 0:
                client.send(b"\xff\xff\xff")
            client.read()
        for n, client in enumerate(clients):
            if not client.is_open:
                clients[n] = Client(server, "flood", f"user{n}")
        time.sleep(0.005)


def operators(server):
    address = re.search(r"http://(127\.0\.0\.1:\d+)", server.log()).group(1)
    numbers = random.Random(4)
    commands = [("lobbies/chess/publish", {"data": {"n": 1}}), ("users/user1/send", {"data": "psst"}), ("users/user2/kick", {}),
                ("lobbies/go/kick", {"reconnect": True}), ("lobbies/chess/lock", {"locked": True}),
                ("lobbies/chess/lock", {"locked": False}), ("lobbies/halma/close", {}), ("users/user3/ping", {"timeout_ms": 200})]

    def between(_):
        if numbers.randrange(12):
            return
        path, body = numbers.choice(commands)
        head = (f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
                f"Content-Length: {len(json.dumps(body))}\r\n\r\n{json.dumps(body)}")
        host, port = address.split(":")
        # The response is not awaited: a ping is answered by members that this same loop serves.
        waiting.append(socket.create_connection((host, int(port))))
        waiting[-1].sendall(head.encode())

    waiting = []
    talk(server, 2, 4, between=between)


SESSIONS = {
    "soak": (soak, ["--ping-interval", "300ms", "--pong-timeout", "200ms", "--health-interval", "500ms", "--health-timeout", "400ms"]),
    "ticks": (ticks, ["--tick-hz", "60", "--flush", "tick", "--health-interval", "500ms", "--health-timeout", "400ms"]),
    "operators": (operators, ["--admin", "127.0.0.1:0", "--drain-batch", "2", "--drain-batch-interval", "20ms"]),
    "floods": (floods, ["--max-message-bytes", "1KiB", "--max-outbound-bytes", "8KiB", "--outbound-high-mark", "2KiB",
                        "--outbound-low-mark", "1KiB", "--presence-max", "10", "--max-strikes", "4", "--seat-grace", "0s"]),
}


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else default_binary()
    os.makedirs(FOLDER, exist_ok=True)
    for name, (session, arguments) in SESSIONS.items():
        with tempfile.TemporaryDirectory(prefix="lobbyd-baseline-") as folder:
            # A relative path: the journal has the options of the server in it.
            path = os.path.join(folder, "journal")
            with Lobbyd(binary, "--journal", "journal", "--max-per-lobby", "8", "--log", "warn,lobbyd=info", *arguments,
                        cwd=folder) as server:
                session(server)
                server.terminate()
                if server.exit_code(40) not in (0, 3):
                    sys.exit(f"{name}: the server ended with an error:\n{server.log()}")
            parts = sorted(part for part in glob.glob(path + ".*") if not part.endswith(".lock"))
            data = b"".join(open(part, "rb").read() for part in parts)
            with open(os.path.join(FOLDER, f"{name}.journal"), "wb") as kept:
                kept.write(data)
            print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
