#!/usr/bin/env python3
"""Drains the server under load: 5,000 clients send messages when it stops. Checks that all queued frames arrive.

    tests/clients/drain.py [--conns 5000] [--admin] [path/to/lobbyd]

The clients sit in lobbies of 10 and broadcast with a `ref`; a fifth of them stop reading a second before SIGTERM (with
--admin: POST /drain) and resume three seconds after it. Each `ack` states the number of receivers of a broadcast. Their sum must
equal the number of received messages, so that nothing acknowledged was lost. Every client must then get a `goodbye` with a spread
`retry_after_ms` and a close frame with 1001. New clients must get 503 with Retry-After; health checks must be answered. The
process must exit with 0, and the totals in its log must agree. Exit 0 only if all checks pass. Standard library only.
"""

import argparse
import collections
import json
import re
import resource
import select
import socket
import sys
import time

from frames import CLOSE, PING, PONG, TEXT, frame, frames, read_some, request
from lobbyd import Lobbyd, default_binary

LOBBY_SIZE = 10
OPENING_AT_ONCE = 128
SLOW_EVERY = 5                  # every fifth client pauses reading
SLOW_BEFORE, SLOW_AFTER = 1.0, 3.0
TALK_SECONDS = 3.0              # before the server is stopped
SEND_EVERY = 4.0                # seconds between two messages of one client
PADDING = "x" * 200


class Client:
    def __init__(self, number, port):
        self.number = number
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.connect_ex(("127.0.0.1", port))
        self.rest = b""
        self.upgraded = self.welcomed = False
        self.sent = self.messages = self.delivered = self.dropped = self.acks = 0
        self.goodbye = None
        self.goodbye_at = None
        self.close = None
        self.error = None

    def is_slow(self):
        return self.number % SLOW_EVERY == 0


class Crowd:
    def __init__(self, port, count):
        self.port = port
        self.count = count
        self.epoll = select.epoll()
        self.clients = []
        self.by_fd = {}
        self.open = 0
        self.welcomed = 0
        self.sender = -1
        self.is_stopped = False         # whether the server was told to stop

    def start(self):
        """Opens all connections. Returns whether every client was welcomed."""
        end = time.monotonic() + 120
        started = welcomed = 0
        while welcomed < self.count and time.monotonic() < end:
            while started < self.count and started - welcomed < OPENING_AT_ONCE:
                client = Client(started, self.port)
                self.clients.append(client)
                self.by_fd[client.sock.fileno()] = client
                self.epoll.register(client.sock.fileno(), select.EPOLLOUT)
                started += 1
                self.open += 1
            self.turn(0.1)
            welcomed = self.welcomed
        return all(client.welcomed for client in self.clients) and len(self.clients) == self.count

    def turn(self, seconds):
        for fd, event in self.epoll.poll(seconds, 1024):
            client = self.by_fd[fd]
            if not client.upgraded and event & select.EPOLLOUT:
                client.upgraded = True
                client.sock.send(request(self.port, f"lobby-{client.number // LOBBY_SIZE}", f"user-{client.number}"))
                self.epoll.modify(fd, select.EPOLLIN)
            elif event:
                self.readable(client)

    def readable(self, client):
        try:
            data = read_some(client.sock)
        except OSError as error:
            return self.end(client, error.strerror)
        if data is None:
            return
        if not data:
            return self.end(client, None if client.close else "the connection ended without a close frame")
        data = client.rest + data
        if data.startswith(b"HTTP/1.1"):
            head, end, after = data.partition(b"\r\n\r\n")
            if not end:
                client.rest = data
                return
            if b" 101 " not in head.split(b"\r\n")[0]:
                return self.end(client, head.split(b"\r\n")[0].decode(errors="replace"))
            data = after
        found, client.rest = frames(data)
        for opcode, payload in found:
            self.received(client, opcode, payload)

    def received(self, client, opcode, payload):
        if client.close:
            client.error = client.error or "a frame after the close frame"
        elif opcode == PING:
            client.sock.send(frame(PONG, payload))
        elif opcode == CLOSE:
            client.close = (int.from_bytes(payload[:2], "big"), payload[2:].decode())
            try:
                client.sock.send(frame(CLOSE, payload[:2]))
            except OSError as error:
                client.error = client.error or f"answering the close frame: {error.strerror}"
        elif payload.startswith(b'{"type":"message"'):
            client.messages += 1
        elif payload.startswith(b'{"type":"ack"'):
            ack = json.loads(payload)
            client.acks += 1
            client.delivered += ack["delivered"]
            client.dropped += ack["dropped"]
        elif payload.startswith(b'{"type":"goodbye"'):
            client.goodbye = json.loads(payload)
            client.goodbye_at = time.monotonic()
        elif payload.startswith(b'{"type":"welcome"'):
            client.welcomed = True
            self.welcomed += 1

    def end(self, client, error):
        client.error = client.error or error
        fd = client.sock.fileno()
        del self.by_fd[fd]
        client.sock.close()         # this also removes it from epoll
        self.open -= 1

    def send_from(self, client):
        if client.goodbye or client.sock.fileno() < 0:
            return
        # The server may have ended its connection, which it has not read yet: a second message would be an error.
        if self.is_stopped and client.is_slow():
            return
        client.sent += 1
        message = {"type": "broadcast", "data": {"n": client.sent, "padding": PADDING}, "ref": client.sent}
        try:
            client.sock.send(frame(TEXT, json.dumps(message).encode()))
        except BlockingIOError:
            client.sent -= 1        # no byte was sent: the socket buffer is far larger than these messages
        except OSError as error:
            self.end(client, f"sending: {error.strerror}")

    def talk(self, until):
        """Each client sends a message every SEND_EVERY seconds, until the given time."""
        step = SEND_EVERY / self.count
        next_send = time.monotonic()
        while (now := time.monotonic()) < until and self.open:
            for _ in range(200):
                if next_send > now:
                    break
                self.sender = (self.sender + 1) % self.count
                self.send_from(self.clients[self.sender])
                next_send += step
            self.turn(0.005)

    def set_reading(self, reads):
        for client in self.clients:
            if client.is_slow() and client.sock.fileno() >= 0:
                self.epoll.modify(client.sock.fileno(), select.EPOLLIN if reads else 0)


def ask(port, request):
    """Sends one HTTP request. Returns the lines of the response head, and the body."""
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.sendall(request.replace("\n", "\r\n").encode())
        data = b""
        while piece := sock.recv(65536):
            data += piece
    head, _, body = data.decode().partition("\r\n\r\n")
    return head.split("\r\n"), body


def get(port, path):
    return ask(port, f"GET {path} HTTP/1.1\nHost: localhost\nConnection: close\n\n")


class Bounds:
    def __init__(self):
        self.passed = True

    def check(self, text, ok):
        print(f"{'ok    ' if ok else 'FAILED'} {text}", flush=True)
        self.passed &= bool(ok)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("lobbyd", nargs="?", default=default_binary())
    options.add_argument("--conns", type=int, default=5000)
    options.add_argument("--admin", action="store_true", help="stop the server by POST /drain instead of SIGTERM")
    options.add_argument("--server-arg", action="append", default=[], metavar="ARG", help="one more argument for lobbyd; repeatable")
    args = options.parse_args()

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))        # lobbyd inherits it
    if hard < args.conns + 1000:
        sys.exit(f"drain.py: {args.conns} connections need {args.conns + 1000} descriptors, ulimit -Hn is {hard}")

    bounds = Bounds()
    with Lobbyd(args.lobbyd, "--max-connections", args.conns, "--admin", "127.0.0.1:0", *args.server_arg) as server:
        admin = int(server.wait_for_log(r"admin API on http://127\.0\.0\.1:(\d+)", 60).group(1))
        crowd = Crowd(server.port, args.conns)
        begun = time.monotonic()
        ok = crowd.start()
        bounds.check(f"{sum(client.welcomed for client in crowd.clients)} of {args.conns} clients welcomed in "
                     f"{time.monotonic() - begun:.1f} s", ok)

        crowd.talk(time.monotonic() + TALK_SECONDS - SLOW_BEFORE)
        crowd.set_reading(False)
        crowd.talk(time.monotonic() + SLOW_BEFORE)
        if args.admin:
            lines, body = ask(admin, "POST /drain HTTP/1.1\nHost: localhost\nConnection: close\n"
                                     "Content-Type: application/json\nContent-Length: 2\n\n{}")
            bounds.check(f"POST /drain: {lines[0]} {body.strip()}", lines[0].startswith("HTTP/1.1 202 "))
        else:
            server.terminate()
        stopped_at, crowd.is_stopped = time.monotonic(), True
        crowd.talk(stopped_at + 0.05)
        ready, live = get(server.port, "/health/ready")[0], get(server.port, "/health/live")[0]
        late, _ = get(server.port, "/ws/lobby-0?token=late")
        stats = json.loads(get(admin, "/stats")[1])
        bounds.check(f"while draining: ready {ready[0][9:12]}, live {live[0][9:12]}, new client {late[0][9:12]} "
                     f"{next((line for line in late if line.startswith('Retry-After')), 'without Retry-After')}, "
                     f"/stats {stats['status']}",
                     ready[0][9:12] == "503" and live[0][9:12] == "200" and late[0][9:12] == "503"
                     and any(line.startswith("Retry-After: ") for line in late) and stats["status"] == "draining")
        crowd.talk(stopped_at + SLOW_AFTER)
        crowd.set_reading(True)
        end = time.monotonic() + 60
        while crowd.open and time.monotonic() < end:
            crowd.turn(0.1)
        took = time.monotonic() - stopped_at

        clients = crowd.clients
        errors = collections.Counter(client.error for client in clients if client.error)
        bounds.check(f"all clients closed {took:.1f} s after the stop; errors: {dict(errors)}",
                     crowd.open == 0 and not errors)
        closes = collections.Counter(client.close for client in clients)
        bounds.check(f"close frames: {dict(closes)}", closes == {(1001, "server_shutdown"): args.conns})
        sent, acks = sum(client.sent for client in clients), sum(client.acks for client in clients)
        delivered, received = sum(client.delivered for client in clients), sum(client.messages for client in clients)
        dropped = sum(client.dropped for client in clients)
        bounds.check(f"{sent} broadcasts sent, {acks} acknowledged before goodbye, for {delivered} receivers in all; "
                     f"{received} messages received, {dropped} dropped", delivered == received > 0 and dropped == 0)
        waits = [client.goodbye["retry_after_ms"] for client in clients if client.goodbye]
        window = max(4000, args.conns)
        crowded = max(collections.Counter(wait // 1000 for wait in waits).values(), default=0)
        bounds.check(f"retry_after_ms from {min(waits, default=0)} to {max(waits, default=0)}, at most {crowded} in one second",
                     len(waits) == args.conns and max(waits) < 1000 + window and crowded <= 1100 * args.conns / window + 10)
        prompt = sorted(client.goodbye_at - stopped_at for client in clients if client.goodbye_at and not client.is_slow())
        # 500 every 100 ms: the last goodbye cannot arrive before its batch.
        least = (args.conns - 1) // 500 * 0.1 - 0.2
        bounds.check(f"goodbyes to reading clients arrived {prompt[0] * 1000:.0f} to {prompt[-1] * 1000:.0f} ms after the stop",
                     prompt[-1] >= least)

        code = server.exit_code(60)
        bounds.check(f"exit code {code}", code == 0)
        totals = re.search(r"drained in [0-9.]+s: (.*)", server.log())
        bounds.check(f"log: {totals.group(0) if totals else 'no totals'}",
                     totals and f"closed={args.conns} " in totals.group(1) and totals.group(1).endswith("dropped_bytes=0 forced=0"))
    return 0 if bounds.passed else 1


if __name__ == "__main__":
    sys.exit(main())
