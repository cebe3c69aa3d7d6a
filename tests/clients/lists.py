#!/usr/bin/env python3
"""Follows the list of lobbies while it changes: what that costs the server, and whether every view is right.

    tests/clients/lists.py [--lobbies 10000] [--changes 1000] [--seconds 10] [--watchers 1,10,100] [path/to/lobbyd]

Each lobby has one member, which changes its name in turn: so many changes a second over all lobbies. So many clients follow the
list meanwhile; before and after, nobody does. The processor time of the server with them, less the mean of that without them,
must be at most 5 % of a core, and each client must receive at most 20 KB a second. At the end every client must know exactly
what `GET /lobbies` says. Exit 0 only if all of this holds; figures that do not are measured again, twice at most. Standard library
only.
"""

import argparse
import http.client
import json
import os
import resource
import select
import socket
import sys
import time

from attempts import attempts
from frames import PING, PONG, TEXT, frame, frames, request
from lobbyd import Lobbyd, default_binary

MAX_CORE = 0.05
MAX_BYTES = 20_000
OPENING_AT_ONCE = 128


class Client:
    """One connection. A host only counts its frames; a client that follows the list keeps its view."""

    def __init__(self, port, lobby, user):
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.sendall(request(port, lobby, user))
        self.sock.setblocking(False)
        self.rest, self.is_open, self.is_host = b"", False, user is not None
        self.bytes = self.lists = self.diffs = 0
        self.view = {}

    def receive(self):
        data = self.sock.recv(1 << 20)
        if not data:
            raise AssertionError("the server closed a connection")
        self.bytes += len(data)
        data = self.rest + data
        if not self.is_open:
            head, end, after = data.partition(b"\r\n\r\n")
            if not end:
                self.rest = data
                return
            assert b" 101 " in head.split(b"\r\n")[0], head
            self.is_open, data = True, after
        found, self.rest = frames(data)
        for opcode, payload in found:
            if opcode == PING:
                self.sock.send(frame(PONG, payload))
            elif opcode == TEXT and not self.is_host:
                self.read(json.loads(payload))

    def read(self, message):
        if message["type"] == "lobbies":
            self.view = {lobby["code"]: lobby for lobby in message["lobbies"]}
            self.lists += 1
        else:
            assert message["type"] == "lobbies_diff", message
            self.view.update((lobby["code"], lobby) for lobby in message["set"])
            for code in message["gone"]:
                del self.view[code]
            self.diffs += 1


class Site:
    def __init__(self, server, lobbies):
        self.server, self.poll, self.by_fd = server, select.epoll(), {}
        self.hosts, self.turn, self.names = [], 0, 0
        for number in range(lobbies):
            session = f"page-of-{number:0>16}"
            self.hosts.append(self.open(f"l{number}", f"user{number}&session={session}"))
            if number % OPENING_AT_ONCE == 0:
                self.wait(lambda: all(host.is_open for host in self.hosts))
        self.wait(lambda: all(host.is_open for host in self.hosts))
        for number, host in enumerate(self.hosts):
            tags = {"game": ["chess", "go"][number % 2]}
            self.set(host, {"listed": True, "name": f"Lobby {number}", "tags": tags})
        self.wait(lambda: len(self.get("")["lobbies"]) == min(100, lobbies))

    def open(self, lobby, user):
        client = Client(self.server.port, lobby, user)
        self.by_fd[client.sock.fileno()] = client
        self.poll.register(client.sock.fileno(), select.EPOLLIN)
        return client

    def set(self, host, settings):
        host.sock.send(frame(TEXT, json.dumps({"type": "settings", "settings": settings}).encode()))

    def read(self, seconds):
        for fd, _ in self.poll.poll(seconds, 4096):
            self.by_fd[fd].receive()

    def wait(self, is_done, seconds=60):
        end = time.monotonic() + seconds
        while not is_done():
            assert time.monotonic() < end, "it takes too long"
            self.read(0.02)

    def get(self, query):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port)
        connection.request("GET", "/lobbies" + query)
        answer = connection.getresponse()
        assert answer.status == 200, answer.status
        page = json.loads(answer.read())
        connection.close()
        return page

    def change(self, rate, seconds):
        """Changes lobbies for some seconds. Returns the share of a core that the server used, and the changes made."""
        begun, used, made = time.monotonic(), self.used(), 0
        while (elapsed := time.monotonic() - begun) < seconds:
            while made < elapsed * rate:
                # A prime: successive lobbies are far apart, and all of them change.
                self.turn = (self.turn + 7919) % len(self.hosts)
                self.names += 1
                self.set(self.hosts[self.turn], {"name": f"Lobby {self.turn}, game {self.names}"})
                made += 1
            self.read(0.002)
        return (self.used() - used) / (time.monotonic() - begun), made

    def used(self):
        """Seconds of processor time that the server has used."""
        with open(f"/proc/{self.server.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def follow(site, count, options, attempt):
    """Lets so many clients follow the list, and checks the figures. Returns whether the views are right."""
    before, _ = site.change(options.changes, options.seconds)
    watchers = [site.open("~lobbies", None) for _ in range(count)]
    site.wait(lambda: all(watcher.lists for watcher in watchers))
    for watcher in watchers:
        watcher.bytes = 0
    share, made = site.change(options.changes, options.seconds)
    rate = max(watcher.bytes for watcher in watchers) / options.seconds
    diffs = sum(watcher.diffs for watcher in watchers) / count
    looks = looks_until_right(site, watchers)
    is_right = looks is not None
    for watcher in watchers:
        site.poll.unregister(watcher.sock.fileno())
        del site.by_fd[watcher.sock.fileno()]
        watcher.sock.close()
    after, _ = site.change(options.changes, options.seconds)
    base = (before + after) / 2
    # The time is counted in ticks of 10 ms.
    attempt.check(share - base <= MAX_CORE + 0.02 / options.seconds, f"{(share - base) * 100:.2f} % of a core")
    attempt.check(rate <= MAX_BYTES, f"{rate / 1000:.2f} KB/s for a client")
    attempt.check(looks in (1, None), f"right only at look {looks}")
    attempt.check(diffs >= options.seconds / 2, f"{diffs:.1f} updates for a client in {options.seconds:g} s")
    print(f"{count:4} watchers: {(share - base) * 100:5.2f} % of a core ({share * 100:.2f} %, without them {before * 100:.2f} % "
          f"and {after * 100:.2f} %), {rate / 1000:.2f} KB/s each, {diffs:.1f} updates each, {made} changes, "
          f"{'right' if is_right else 'WRONG'}", flush=True)
    return is_right


def looks_until_right(site, watchers):
    """Compares all views with the list of the server when nothing changes any more. Returns how often, or None if they never agree."""
    for look in range(1, 21):
        # The last changes are told within a second, but the server may still have to read them.
        end = time.monotonic() + 2.5
        site.wait(lambda: time.monotonic() > end)
        page = {lobby["code"]: lobby for lobby in site.get("")["lobbies"]}
        if all(watcher.view == page for watcher in watchers):
            return look
    return None


def passes(site, count, options):
    try:
        # Views that are wrong once are wrong.
        return all([follow(site, count, options, attempt) for attempt in attempts()])
    except AssertionError as error:
        print(f"     FAILED: {error}", flush=True)
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lobbies", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=1000, help="per second, over all lobbies")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--watchers", default="1,10,100")
    parser.add_argument("binary", nargs="?", default=default_binary())
    options = parser.parse_args()
    files = options.lobbies + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, files), hard), hard))
    flags = ["--auth", "open", "--lobby-control", "on", "--max-connections", options.lobbies + 10,
             "--max-lobbies", options.lobbies + 10, "--lists-per-minute", "unlimited", "--stats-interval", "off"]
    with Lobbyd(options.binary, *flags) as server:
        site = Site(server, options.lobbies)
        counts = [int(count) for count in options.watchers.split(",")]
        results = [passes(site, count, options) for count in counts]
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
