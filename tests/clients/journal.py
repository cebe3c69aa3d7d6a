#!/usr/bin/env python3
"""Records sessions of real clients and replays them in another process, byte for byte.

    tests/clients/run --journal [--seconds 10] [path/to/lobbyd]

Clients of Python's `websockets` and npm's `ws` join, talk, flood, leave and disconnect; one client never answers. The server
writes a journal, in small segments. The first session is stopped with SIGTERM, the second is killed with SIGKILL in the middle of
the traffic. Each time `lobbyd replay` must confirm all output, and must contain every message that was acknowledged to a client;
and read_journal.py, an independent reader, must find the journal as src/journal/FORMAT.md specifies it.
Exit 0 only if all checks pass.
"""

import argparse
import asyncio
import glob
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile

from lobbyd import Lobbyd, default_binary
from peers import Closed, Node, Python

HERE = os.path.dirname(os.path.abspath(__file__))
LOBBIES = ["chess", "go", "halma"]
PYTHONS, NODES = 24, 8


class Crowd:
    """Clients that connect, talk and leave until `over` is set."""

    def __init__(self, server, seed):
        self.server = server
        self.random = random.Random(seed)
        self.acked = self.connections = 0
        self.kinds = set()
        self.over = False

    async def live(self, library, user):
        while not self.over:
            try:
                await self.visit(library, user)
            except (OSError, ConnectionError, asyncio.TimeoutError):
                pass
            except Exception as error:      # each library has its own exceptions for a closed connection
                if "websockets" not in type(error).__module__:
                    raise
            await asyncio.sleep(self.random.random() / 10)

    async def visit(self, library, user):
        client = await library.open(self.server.url(self.random.choice(LOBBIES), user))
        self.connections += 1
        reader = asyncio.create_task(self.read(client))
        try:
            for number in range(self.random.randrange(1, 12)):
                if self.over:
                    return
                await client.say("broadcast", data="ünïcode " * self.random.randrange(20), ref=number)
                await asyncio.sleep(self.random.random() / 20)
            end = self.random.choice(["flood", "leave", "drop", "close", "binary"])
            self.kinds.add(end)
            if end == "flood":
                for _ in range(400):
                    await client.say("move", to="e4")
            elif end == "binary":
                await client.send(os.urandom(3000))
            elif end == "leave":
                await client.say("leave")
            if end in ("drop", "flood"):
                await client.drop()
            else:
                await client.close()
        finally:
            await asyncio.wait([reader], timeout=2)
            reader.cancel()

    async def read(self, client):
        while not isinstance(frame := await client._next(), Closed):
            if isinstance(frame, str) and frame.startswith('{"type":"ack"'):
                self.acked += 1


def silent(server):
    """Opens a client that joins and then never answers."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    sock.sendall(b"GET /ws/silence?token=silent HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    read_until(sock, b"presence_state")
    return sock


def read_until(sock, words):
    received = b""
    while words not in received:
        piece = sock.recv(4096)
        check(piece, f"the connection ended before {words}: {received}")
        received += piece


def replay(binary, *args):
    done = subprocess.run([binary, "replay", *args], capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout, done.stderr


def segments(path):
    """The journal's segments in order, without the lock file."""
    return sorted(part for part in glob.glob(path + ".*") if not part.endswith(".lock"))


def read_independently(path):
    """Reads all segments, and the example of the specification, with a program that knows only the specification."""
    specification = os.path.join(HERE, "../../src/journal/FORMAT.md")
    command = [sys.executable, "-B", os.path.join(HERE, "read_journal.py"), "--summary", "--example", specification]
    done = subprocess.run([*command, *segments(path)], capture_output=True, text=True, timeout=600)
    check(done.returncode == 0, f"read_journal.py: {done.stderr}")
    print(done.stdout, end="")


def figures(text):
    """Returns the lines of a summary, by name."""
    return {line[:24].strip(): line[24:].strip() for line in text.splitlines()}


async def session(binary, path, seconds, how):
    args = ["--journal", path, "--journal-max-bytes", "256KiB", "--ping-interval", "2s", "--pong-timeout", "1s",
            "--max-connections", "25", "--log", "warn,lobbyd=info"]
    with Lobbyd(binary, *args) as server:
        crowd, node = Crowd(server, seconds), Node()
        sock = silent(server)
        users = [(Python(), f"python{n % (PYTHONS - 4)}") for n in range(PYTHONS)] + [(node, f"node{n}") for n in range(NODES)]
        tasks = [asyncio.create_task(crowd.live(library, user)) for library, user in users]
        await asyncio.sleep(seconds)
        await asyncio.to_thread(read_until, sock, b"stale")
        if how == signal.SIGTERM:
            crowd.over = True
        os.kill(server.pid, how)
        code = await asyncio.to_thread(server.exit_code, 90)
        crowd.over = True
        await asyncio.wait(tasks, timeout=10)
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
        await node.stop()
        sock.close()
    return crowd, code


def check(condition, message):
    if not condition:
        raise AssertionError(message)


async def main(binary, seconds):
    with tempfile.TemporaryDirectory(prefix="lobbyd-journal-") as folder:
        path = os.path.join(folder, "session")
        for how in (signal.SIGTERM, signal.SIGKILL):
            crowd, ended = await session(binary, path, seconds, how)
            check(ended in ((0, 3) if how == signal.SIGTERM else (-signal.SIGKILL,)), f"the server ended with {ended}")
            code, out, err = replay(binary, path)
            check(code == 0, f"replay after {how.name} ends with {code}: {err}\n{out}")
            summary = figures(out)
            check(crowd.acked > 0 and crowd.connections > 20, f"the clients did little: {vars(crowd)}")
            check(int(summary["messages in"]) >= crowd.acked, f"{crowd.acked} messages were acknowledged: {summary}")
            check(int(summary["connections"]) >= crowd.connections, f"{crowd.connections} connections were opened: {summary}")
            check(int(summary["turns confirmed"]) > 100, summary)
            size = sum(os.path.getsize(segment) for segment in segments(path))
            print(f"{how.name}: {summary['recorded']} in {summary['segments']} segments, {summary['connections']} connections, "
                  f"{summary['messages in']} messages, {summary['turns confirmed']} turns confirmed, "
                  f"{summary['times real time']} times as fast; {size} bytes of journals")
            read_independently(path)
        code, out, _ = replay(binary, path, "--print", "--user", "silent")
        stale = [line for line in out.splitlines() if "leaves: 4201 stale" in line]
        check(code == 0 and len(stale) == 1, f"the timeline must close the silent client once, as stale:\n{out}")
        print(stale[0])
        code, out, _ = replay(binary, path, "--stop-at", "50")
        check(code == 0 and out.startswith("turn 50 at "), out)

        # The same journal with one changed byte, a file that is not a journal, and a missing file.
        # Of the newest session. Its last segment may have little more than a head.
        largest = max(segments(path)[-int(summary["segments"]):], key=os.path.getsize)
        with open(largest, "r+b") as file:
            file.seek(os.path.getsize(largest) // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        code, _, err = replay(binary, path)
        check(code == 5 and "it is damaged before byte" in err, f"a damaged journal ends with {code}: {err}")
        check(replay(binary, __file__)[0] == 5, "a script is not a journal")
        check(replay(binary, os.path.join(folder, "missing"))[0] == 2, "there is no journal of that name")
    print("all checks passed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    given = parser.parse_args()
    try:
        asyncio.run(main(given.lobbyd, given.seconds))
    except AssertionError as error:
        sys.exit(f"journal.py: {error}")
