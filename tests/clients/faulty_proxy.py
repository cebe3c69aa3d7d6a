#!/usr/bin/env python3
"""A TCP proxy on 127.0.0.1 that resets, closes, freezes and delays connections at random. `Proxy` starts it as a process.

    tests/clients/faulty_proxy.py SERVER SEED MEAN_SECONDS

SERVER is a port, or the path of a socket file. Prints its own port. A line `calm` on its input ends all faults: frozen connections
continue, and new ones are left alone. At the end of its input it prints the number of faults of each kind as JSON, and exits.
Standard library only.

The bytes of a connection that is reset are lost, whichever side has already sent them: that is what happens in a network, where
a server has handed a message to its kernel that no client ever reads. A frozen connection does not see the end of the other side
either, so a client that gives it up may be back before the server reads what the old connection still contained.
"""

import asyncio
import collections
import json
import os
import random
import resource
import socket
import struct
import subprocess
import sys

# Weights of what happens to a connection next. The first group ends it.
FAULTS = {"reset": 20, "fin": 15, "cut": 20, "deaf": 10, "freeze and reset": 10, "freeze": 15, "delay": 20}
# Connections that are reset by the proxy after so few bytes of the server that they may end within the upgrade or the replay.
EARLY = 0.1
REFUSED = 0.03                  # connections that are reset at once
ALL_EVERY = 25.0                # mean time between two moments at which all connections are reset and none is accepted for a while


class End(asyncio.Protocol):
    """One of the two connections of a link."""

    def __init__(self, link):
        self.link, self.transport, self.other = link, None, None

    def connection_made(self, transport):
        self.transport = transport
        if self.link.stopped:
            self.reset()

    def write(self, data):
        if self.transport and not self.transport.is_closing():
            self.transport.write(data)

    def data_received(self, data):
        self.link.received(self, data)

    def eof_received(self):
        self.link.ended()
        return True             # the link closes it

    def connection_lost(self, error):
        self.link.lost()

    def reset(self):
        if self.transport and not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def set_reading(self, reads):
        if self.transport and not self.transport.is_closing():
            (self.transport.resume_reading if reads else self.transport.pause_reading)()


class Link:
    """The two connections of one client."""

    def __init__(self, proxy, number):
        self.proxy, self.loop = proxy, asyncio.get_running_loop()
        self.random = random.Random(f"{proxy.seed} link {number}")
        self.client, self.server = End(self), End(self)
        self.client.other, self.server.other = self.server, self.client
        self.deaf = False               # the server's bytes are dropped until the reset
        self.cut_after = None           # bytes of the server that still pass before the reset
        self.delay_until = 0.0
        self.delayed = collections.deque()
        self.timer = None
        self.stopped = False
        if self.random.random() < EARLY:
            self.cut_after = self.random.randrange(1500)
        self.plan()

    def plan(self):
        if not self.proxy.calm:
            self.timer = self.loop.call_later(self.random.expovariate(1 / self.proxy.mean), self.fault)

    def fault(self):
        if self.proxy.calm:
            return
        kind = self.random.choices(list(FAULTS), FAULTS.values())[0]
        self.proxy.counts[kind] += 1
        later = self.loop.call_later
        if kind == "reset":
            self.reset()
        elif kind == "fin":
            self.close()
        elif kind == "cut":
            self.cut_after = self.random.randrange(300)
            self.timer = later(2, self.reset)
        elif kind == "deaf":
            self.deaf = True
            self.timer = later(self.random.random(), self.reset)
        elif kind == "delay":
            self.delay_until = self.loop.time() + self.random.random() * 3
            self.plan()
        else:
            self.set_reading(False)
            pause = self.random.choice([0.3, 2.0, 6.0]) * self.random.random()
            self.timer = later(pause, self.thaw if kind == "freeze" else self.reset)

    def set_reading(self, reads):
        self.client.set_reading(reads)
        self.server.set_reading(reads)

    def thaw(self):
        self.set_reading(True)
        self.plan()

    def received(self, end, data):
        if end is self.server:
            if self.deaf:
                return
            if self.cut_after == 0:
                return                  # what follows the cut is lost
            if self.cut_after is not None and not self.proxy.calm:
                data = data[:self.cut_after]
                self.cut_after -= len(data)
                if self.cut_after == 0:
                    self.proxy.counts["cut within the stream"] += 1
                    # Behind what is delayed.
                    self.pass_on(lambda: end.other.write(data))
                    # One turn later, so that the first part is sent.
                    self.pass_on(lambda: self.loop.call_soon(self.reset))
                    return
        self.pass_on(lambda: end.other.write(data))

    def ended(self):
        self.pass_on(self.close)

    def pass_on(self, step):
        """Performs a step in order, now or after a delay."""
        now = self.loop.time()
        if not self.delayed and now >= self.delay_until:
            return step()
        due = now + (self.random.random() * 0.15 if now < self.delay_until else 0)
        if self.delayed:
            due = max(due, self.delayed[-1][0])
        self.delayed.append((due, step))
        if len(self.delayed) == 1:
            self.loop.call_at(due, self.flush)

    def flush(self):
        while self.delayed and self.delayed[0][0] <= self.loop.time() + 0.001:
            self.delayed.popleft()[1]()
        if self.delayed:
            self.loop.call_at(self.delayed[0][0], self.flush)

    def reset(self):
        self.stop()
        self.client.reset()
        self.server.reset()

    def close(self):
        self.stop()
        for end in self.client, self.server:
            if end.transport:
                end.transport.close()

    def lost(self):
        # The other side ends in the same way as far as TCP can tell: what it has been sent is still delivered.
        self.pass_on(self.close)

    def stop(self):
        if self.timer:
            self.timer.cancel()
        self.stopped = True
        self.proxy.links.pop(self, None)


class Proxying:
    def __init__(self, server, seed, mean):
        self.server, self.seed, self.mean = server, seed, mean
        self.calm = False
        self.links = {}               # as a set in order
        self.number = 0
        self.closed_until = 0.0
        self.counts = collections.Counter()
        self.random = random.Random(f"{seed} proxy")

    async def run(self):
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listener.setblocking(False)
        print(listener.getsockname()[1], flush=True)
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        tasks = [asyncio.create_task(self.accept(listener)), asyncio.create_task(self.reset_all())]
        while line := await commands.readline():
            if line == b"calm\n":
                self.become_calm()
        for task in tasks:
            task.cancel()
        print(json.dumps(self.counts), flush=True)

    async def accept(self, listener):
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            self.number += 1
            if not self.calm and (loop.time() < self.closed_until or self.random.random() < REFUSED):
                self.counts["refused"] += 1
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self.connect(sock)

    async def connect(self, sock):
        loop = asyncio.get_running_loop()
        link = Link(self, self.number)
        self.links[link] = None
        try:
            if self.server.isdigit():
                await loop.create_connection(lambda: link.server, "127.0.0.1", int(self.server))
            else:
                await loop.create_unix_connection(lambda: link.server, self.server)
            await loop.connect_accepted_socket(lambda: link.client, sock)
        except OSError:
            link.reset()
            sock.close()

    async def reset_all(self):
        """As a router that restarts."""
        while True:
            await asyncio.sleep(self.random.expovariate(1 / ALL_EVERY))
            if self.calm:
                return
            self.counts["reset all"] += 1
            self.closed_until = asyncio.get_running_loop().time() + self.random.random() * 1.5
            for link in list(self.links):
                link.reset()

    def become_calm(self):
        self.calm = True
        for link in list(self.links):
            if link.timer:
                link.timer.cancel()
            # Bytes of the server were lost: the connection cannot continue.
            link.reset() if link.deaf else link.set_reading(True)


class Proxy:
    """The process. As a context manager it ends at the end of the block; `faults` has then the numbers of its faults."""

    def __init__(self, server, seed, mean):
        self._process = subprocess.Popen([sys.executable, "-B", os.path.abspath(__file__), str(server), str(seed), str(mean)],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())
        self.faults = {}

    def calm(self):
        self._process.stdin.write("calm\n")
        self._process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        try:
            self.faults = json.loads(self._process.stdout.read() or "{}")
            self._process.wait(60)
        finally:
            self._process.kill()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    server, seed, mean = sys.argv[1:]
    asyncio.run(Proxying(server, seed, float(mean)).run())
