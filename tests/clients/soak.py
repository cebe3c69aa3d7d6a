#!/usr/bin/env python3
"""Soak test: many clients connect, talk, stall, flood, drop and reconnect. Compares all counts at the end.

    tests/clients/run --soak [--minutes 30] [--clients 1000] [--seed 1] [path/to/lobbyd]

Python's `websockets`, and npm's `ws` for one client in twenty. Every message has a number, so each client checks the messages
that it receives: none twice, none out of order, and none missing between two messages of the same session unless its sender got
an error for it; `seq` has no gaps; presence is correct. When all clients have left, the server's statistics are compared with the
clients' counts, its memory with the memory after a first round, and its descriptors with those at the start. SIGTERM must end it
with code 0, and `lobbyd replay` must confirm its journal, with the same totals.

Counts that a client cannot know exactly are compared as a range. After it has dropped a connection, or was closed, it does not
know which of its unanswered messages have arrived, nor which of three close reasons the server recorded.

Needs Linux, and 3 GB in the folder for temporary files for the journal of half an hour. Exit 0 only if all checks pass.
"""

import argparse
import asyncio
import collections
import json
import os
import random
import resource
import socket
import sys
import tempfile
import time

from drain import get
from journal import figures, replay
from lobbyd import Lobbyd, default_binary
from peers import Closed, Node, Python
from worst import resident
from websockets.exceptions import ConnectionClosed

PER_LOBBY = 6
SEND_EVERY = 2.0                # seconds between two messages, on average
SESSION = 30.0                  # mean length of a session in seconds; at most an eighth of the run
AWAY = 1.0                      # mean time between two sessions in seconds
VISITS, WRONG_CODES = 0.04, 0.01
NODE_SHARE = 20                 # one client in this many uses npm's `ws`
WARM_UP = 0.15                  # part of the run that is the first round
MEMORY_SLACK = 1.25             # factor; 2 MiB more are allowed too
TIMEOUT = 60
LARGE = "x" * 40_000
TALK = {"broadcast": 50, "move": 20, "direct": 18, "presence": 6, "ping": 4, "rubbish": 2}
ENDS = {"close": 48, "leave": 15, "drop": 25, "again": 7, "flood": 4, "stall": 1}
CONNECTION_ERRORS = (ConnectionClosed, ConnectionError)


class Refused(Exception):
    """The server sent `goodbye` before `welcome`."""


class Ledger:
    """Counts of all clients, and violations of the protocol."""

    def __init__(self):
        self.counts = collections.Counter()
        self.closes = collections.Counter()     # reasons known to the clients; `drop`: by the client
        self.errors = collections.Counter()
        self.unknown = collections.Counter()    # messages that may have arrived or not, and errors that may have been sent or not
        self.violations = []
        self.gaps = []                          # ranges of numbers that a client has not received: sender, begin, end
        self.refused = collections.defaultdict(set)
        self.unanswered = collections.defaultdict(set)

    def violation(self, text):
        self.violations.append(text)
        if len(self.violations) <= 20:
            print(f"VIOLATION {text}", flush=True)

    def check_gaps(self):
        """Checks that every missing number was refused, or not answered because its connection ended."""
        for key, begin, end in self.gaps:
            lost = [n for n in range(begin, end) if n not in self.refused[key] and n not in self.unanswered[key]]
            if lost:
                self.violation(f"of {key} the numbers {lost[:10]} were lost")
        self.counts["gaps"] += len(self.gaps)
        self.gaps.clear()


class Session:
    """One connection of a client, from its upgrade to its close."""

    number_ever = 0

    def __init__(self, ledger, client, user):
        Session.number_ever += 1
        self.id = Session.number_ever
        self.ledger, self.client, self.user = ledger, client, user
        self.welcome = asyncio.get_running_loop().create_future()
        self.reads = asyncio.Event()
        self.reads.set()
        self.goodbye = None
        self.dropped = False
        self.sent = 0
        self.pending = {}           # by ref: the key of the message (session, receiver, number), or None
        self.numbers = collections.Counter()
        self.last_numbers = {}
        self.members = {}
        self.seq = None
        self.skipped = set()        # seq numbers not received: they may be this client's own messages
        self.own = 0
        self.unanswerable = 0       # messages without a ref
        self.reader = asyncio.create_task(self.read())

    # ---- receiving ----

    async def read(self):
        try:
            while True:
                await self.reads.wait()
                frame = await self.client._next()
                if isinstance(frame, Closed):
                    break
                self.ledger.counts["frames"] += 1
                self.receive(json.loads(frame))
        except Exception as error:
            self.ledger.violation(f"{self.user} cannot parse a message: {error!r}")
            raise
        finally:
            if not self.welcome.done():
                self.welcome.set_exception(Refused())
        self.end(frame)
        return frame

    def receive(self, message):
        kind = message["type"]
        if kind == "message":
            self.count(message["seq"])
            if message["from"] not in self.members.values():
                self.ledger.violation(f"{self.user} receives a message from {message['from']}, not a member")
            data = message["data"]
            self.check_number(data["from"] if "type" in data else data, None)
        elif kind == "direct":
            self.check_number(message["data"], self.user)
        elif kind in ("ack", "error", "pong") and message.get("ref") is not None:
            self.answered(message)
        elif kind == "error":
            self.ledger.errors[message["code"]] += 1
        elif kind == "presence_diff":
            self.count(message["seq"])
            self.change(message)
        elif kind == "presence_state":
            users = {user["conn"]: user["user"] for user in message["users"]}
            if self.seq is None:
                self.seq, self.members = message["seq"], users
                self.welcome.set_result(None)
            elif message["seq"] == self.seq and users != self.members:
                self.ledger.violation(f"{self.user} receives members {users}, expected {self.members}")
            if "ref" in message:
                self.answered(message)
        elif kind == "goodbye":
            self.goodbye = message["reason"]
        elif kind != "welcome":
            self.ledger.violation(f"{self.user} receives {message}")

    def count(self, seq):
        """Checks that `seq` grows. Numbers of the client's own messages are skipped, because only the other members receive them."""
        if seq <= self.seq:
            self.ledger.violation(f"{self.user}: seq {seq} after {self.seq}")
        self.skipped.update(range(self.seq + 1, seq))
        self.seq = seq

    def check_number(self, data, to):
        self.ledger.counts["received"] += 1
        key = (data["session"], to)
        last, n = self.last_numbers.get(key), data["n"]
        if last is not None and n <= last:
            self.ledger.violation(f"{self.user} receives {n} of {key} after {last}")
        elif last is not None and n > last + 1:
            self.ledger.gaps.append((key, last + 1, n))
        self.last_numbers[key] = n

    def answered(self, message):
        ref = message["ref"]
        if ref not in self.pending:
            return self.ledger.violation(f"{self.user} is answered twice: {message}")
        key = self.pending.pop(ref)
        if message["type"] == "error":
            self.ledger.errors[message["code"]] += 1
            if key:
                self.ledger.refused[key[:2]].add(key[2])
        elif "seq" in message and message["type"] == "ack":
            self.skipped.discard(message["seq"])
            if message["seq"] > self.seq:
                self.skipped.update(range(self.seq + 1, message["seq"]))
                self.seq = message["seq"]

    def change(self, diff):
        for left in diff["leaves"]:
            if self.members.pop(left["conn"], None) != left["user"]:
                self.ledger.violation(f"{self.user}: {left} leaves, but is not a member")
        for joined in diff["joins"]:
            if joined["conn"] in self.members:
                self.ledger.violation(f"{self.user}: {joined} joins, but is already a member")
            self.members[joined["conn"]] = joined["user"]

    # ---- sending ----

    async def say(self, kind, more=None, answered=True):
        """Sends one message. It is counted whether or not it arrives."""
        ref = self.sent
        self.sent += 1
        self.ledger.counts["sent"] += 1
        fields = dict(more or {})
        key = None
        if kind in ("broadcast", "move", "direct"):
            to = fields.get("to") if kind == "direct" else None
            self.numbers[to] += 1
            self.own += kind == "move"
            key = (self.id, to, self.numbers[to])
            data = {"session": self.id, "n": key[2], "padding": fields.pop("padding", "")}
            fields |= {"from": data} if kind == "move" else {"data": data}
        if answered:
            fields["ref"] = ref
            self.pending[ref] = key
        else:
            self.unanswerable += 1
        if kind == "rubbish":
            await self.client.send('{"type":')
        else:
            await self.client.say(kind, **fields)

    async def talk(self, random):
        kind = random.choices(list(TALK), TALK.values())[0]
        padding = "x" * random.choice([0, 0, 10, 100, 1000])
        if kind == "direct":
            others = sorted(set(self.members.values()) - {self.user}) + ["nobody"]
            await self.say(kind, {"to": random.choice(others), "padding": padding})
        elif kind in ("broadcast", "move"):
            await self.say(kind, {"padding": padding})
        else:
            await self.say(kind, answered=kind != "rubbish")

    # ---- closing ----

    async def wait_closed(self):
        return await asyncio.wait_for(asyncio.shield(self.reader), TIMEOUT)

    async def drop(self):
        self.dropped = not self.reader.done()
        await self.client.drop()

    async def flood(self, random):
        for _ in range(random.randrange(125, 200)):
            await self.say("broadcast")
        await self.wait_answered()

    async def wait_answered(self):
        """Until all is answered, or the connection has ended."""
        end = time.monotonic() + TIMEOUT
        while self.pending and not self.reader.done() and time.monotonic() < end:
            await asyncio.sleep(0.1)

    async def stall(self, random):
        """Stops reading while its queue on the server grows; then resumes, unless it was closed."""
        self.reads.clear()
        await self.client.pause()
        try:
            for _ in range(random.randrange(20, 150)):
                await self.say("direct", {"to": self.user, "padding": LARGE})
                await asyncio.sleep(0.02)
            await asyncio.sleep(random.random())
        finally:
            self.reads.set()
            await self.client.resume()
        # Whether it was closed is known when it has read everything.
        await self.wait_answered()

    def end(self, closed):
        ledger = self.ledger
        for key in filter(None, self.pending.values()):
            ledger.unanswered[key[:2]].add(key[2])
        if len(self.skipped) > self.own:
            ledger.violation(f"{self.user} misses {len(self.skipped)} seq numbers of its lobby, but has sent only {self.own}")
        if self.dropped:
            reason = "drop"
        elif closed.code == 1006:
            reason = "unclear"
        else:
            # The server echoes a client's close frame without a reason.
            reason = closed.reason or ("peer_closed" if closed.code == 1000 else str(closed.code))
        ledger.closes[reason] += 1
        if self.goodbye and reason not in (self.goodbye, "drop", "unclear"):
            ledger.violation(f"{self.user} gets goodbye {self.goodbye}, and is closed with {reason}")
        if reason == "rate_limited":
            # The first unanswered message caused the close; the server ignored the others.
            ledger.counts["ignored"] += len(self.pending) - 1
        elif reason not in ("peer_closed", "left"):
            ledger.unknown["messages"] += len(self.pending) + self.unanswerable
            ledger.unknown["rate_limited"] += len(self.pending)
            ledger.unknown["user_not_found"] += sum(1 for key in self.pending.values() if key and key[1])
            ledger.unknown["bad_message"] += self.unanswerable
        elif self.pending:
            # The server handles all messages before a close frame or a `leave`.
            ledger.violation(f"{self.user} got no answer to {list(self.pending.items())[:5]}")


class Crowd:
    def __init__(self, server, ledger, clients, seed, mean_session):
        self.server, self.ledger, self.clients, self.seed, self.mean_session = server, ledger, clients, seed, mean_session
        self.python, self.node = Python(), Node()
        self.rounds = 0

    async def round(self, seconds):
        """Runs all clients for this many seconds, until they have closed."""
        self.rounds += 1
        self.until = time.monotonic() + seconds
        lives = [asyncio.create_task(self.live(n, random.Random(f"{self.seed} {self.rounds} {n}"), min(seconds / 3, 20)))
                 for n in range(self.clients)]
        for life in asyncio.as_completed(lives):
            try:
                await life
            except Exception as error:
                self.ledger.violation(f"a client failed with {error!r}")

    def left(self):
        return self.until - time.monotonic()

    async def live(self, n, random, spread):
        await asyncio.sleep(random.random() * spread)
        user, home = f"u{n}", f"l{n // PER_LOBBY}"
        library = self.node if n % NODE_SHARE == 0 else self.python
        session = None
        while self.left() > 0:
            if session is None:
                session = await self.enter(library, self.destination(random, home), user)
                if session is None:
                    await asyncio.sleep(random.expovariate(1 / AWAY))
                    continue
            try:
                session = await self.visit(library, random, session)
            except CONNECTION_ERRORS:
                await session.wait_closed()
                session = None
            if session is None:
                await asyncio.sleep(min(random.expovariate(1 / AWAY), max(self.left(), 0)))
        if session is not None:
            await self.close(session)

    def destination(self, random, home):
        where = random.random()
        if where < WRONG_CODES:
            return "no%20good"
        return f"l{random.randrange(1 + self.clients // PER_LOBBY)}" if where < WRONG_CODES + VISITS else home

    async def enter(self, library, lobby, user):
        self.ledger.counts["connections"] += 1
        url = self.server.url(lobby, user)
        if library is self.python:
            sock = socket.socket()
            # As small as possible, so that a stalled client fills the server's queue and not the kernel's buffer.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.server.port))
            client = await library.open(url, sock=sock, compression=None, ping_interval=None, max_queue=4,
                                        open_timeout=TIMEOUT, close_timeout=TIMEOUT)
        else:
            client = await library.open(url)
        session = Session(self.ledger, client, user)
        session.lobby = lobby
        try:
            await asyncio.wait_for(session.welcome, TIMEOUT)
        except Refused:
            self.ledger.counts["turned away"] += 1
            await client.close()
            return None
        self.ledger.counts["welcomes"] += 1
        return session

    async def close(self, session):
        await session.client.close()
        await session.wait_closed()

    async def visit(self, library, random, session):
        """Talks for a while, then performs a random action. Returns the session to continue with, or None."""
        end = time.monotonic() + min(random.expovariate(1 / self.mean_session), max(self.left(), 0))
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(random.expovariate(1 / SEND_EVERY), left))
            if session.reader.done():
                return None
            if time.monotonic() < end:
                await session.talk(random)
        if self.left() <= 0:
            return session
        how = random.choices(list(ENDS), ENDS.values())[0]
        self.ledger.counts[how] += 1
        if how == "again":
            newer = await self.enter(library, session.lobby, session.user)
            await session.wait_closed()
            return newer
        if how == "flood":
            await session.flood(random)
            return None if session.reader.done() else session
        if how == "stall":
            await session.stall(random)
            return None if session.reader.done() else session
        if how == "drop":
            await session.drop()
        elif how == "leave":
            await session.say("leave", answered=False)
        else:
            await session.client.close()
        await session.wait_closed()
        return None



async def descriptors(pid):
    """Counts the descriptors: the minimum of several samples, because an operator's connection takes a moment to close."""
    counts = []
    for _ in range(10):
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        await asyncio.sleep(0.1)
    return min(counts)


class Table:
    def __init__(self):
        self.passed = True

    def row(self, name, server, clients, ok):
        self.passed &= bool(ok)
        print(f"{'ok    ' if ok else 'FAILED'} {name:38} {server!s:>24} {clients!s:>24}", flush=True)

    def same(self, name, server, clients):
        self.row(name, server, clients, server == clients)

    def between(self, name, server, least, most):
        self.row(name, server, least if least == most else f"{least} to {most}", least <= server <= most)


async def wait_until_empty(admin):
    """Waits until no connection is left, and returns the statistics."""
    end = time.monotonic() + TIMEOUT
    while True:
        stats = json.loads((await asyncio.to_thread(get, admin, "/stats"))[1])
        if stats["total_connections"] + stats["pending"] + stats["closing"] == 0:
            return stats
        if time.monotonic() > end:
            raise AssertionError(f"connections are left: {stats}")
        await asyncio.sleep(0.1)


def compare(table, ledger, stats):
    """Compares the server's counts with the clients'."""
    counters, closed, errors = stats["counters"], stats["closed"], stats["errors"]
    counts, closes = ledger.counts, ledger.closes
    unclear, unknown = closes["unclear"], ledger.unknown
    table.same("connections", counters["accepted"], counts["connections"])
    table.same("connections that ended", sum(closed.values()), counts["connections"])
    table.same("welcomes: joined and taken over", counters["joined"] + counters["taken_over"], counts["welcomes"])
    table.same("left: every member that joined", counters["left"], counters["joined"])
    sent = counts["sent"] - counts["ignored"]
    table.between("messages in", counters["messages_in"], sent - unknown["messages"], sent)
    table.row("frames out", counters["frames_out"], f"at least {counts['frames']}", counters["frames_out"] >= counts["frames"])
    # The server notices a dropped connection by a read, by a write, or because the user connects again.
    dropped = closed.get("hangup", 0) + closed.get("write_failed", 0) + closed.get("replaced", 0)
    known = closes["drop"] + closes["replaced"]
    table.between("ends: dropped, replaced", dropped, known, known + unclear)
    for reason in sorted((set(closed) | set(closes)) - {"hangup", "write_failed", "replaced", "drop", "unclear"}):
        table.between(f"ends: {reason}", closed.get(reason, 0), closes[reason], closes[reason] + unclear)
    for code in sorted(set(errors) | set(ledger.errors)):
        # A connection that is closed for an error gets no `error` message.
        seen = ledger.errors[code] + closes[code]
        table.between(f"errors: {code}", errors.get(code, 0), seen, seen + unknown[code])


def compare_replay(table, binary, path, stats):
    code, out, err = replay(binary, path)
    table.row("replay", f"exit code {code}", "0", code == 0)
    if code != 0:
        return print(out, err)
    summary = figures(out)
    counters = stats["counters"]
    for name, count in [("connections", counters["accepted"]), ("messages in", counters["messages_in"]),
                        ("frames out", counters["frames_out"]), ("bytes in", counters["bytes_in"]),
                        ("bytes out", counters["bytes_out"])]:
        table.same(f"replay: {name}", int(summary[name]), count)
    ends = {name.removeprefix("closed "): int(count) for name, count in summary.items() if name.startswith("closed ")}
    table.row("replay: ends", sum(ends.values()), sum(stats["closed"].values()), ends == stats["closed"])
    print(f"       replayed {summary['recorded']} in {summary['segments']} segments, {summary['times real time']} times as fast")


async def main(options):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    ledger, table = Ledger(), Table()
    with tempfile.TemporaryDirectory(prefix="lobbyd-soak-") as folder:
        path = os.path.join(folder, "session")
        args = ["--journal", path, "--journal-max-bytes", "64MiB", "--admin", "127.0.0.1:0", "--max-connections",
                options.clients + 100, "--max-per-lobby", PER_LOBBY, "--bytes-per-second", "unlimited", "--log", "warn,lobbyd=info"]
        with Lobbyd(options.lobbyd, *args) as server:
            admin = int(server.wait_for_log(r"admin API on http://127\.0\.0\.1:(\d+)", 60).group(1))
            await wait_until_empty(admin)
            fds = await descriptors(server.pid)
            crowd = Crowd(server, ledger, options.clients, options.seed, min(SESSION, 60 * options.minutes / 8))
            print(f"{options.clients} clients for {options.minutes:g} minutes, seed {options.seed}", flush=True)
            await crowd.round(60 * options.minutes * WARM_UP)
            await wait_until_empty(admin)
            warm = resident(server.pid, "VmRSS")
            await crowd.round(60 * options.minutes * (1 - WARM_UP))
            await crowd.node.stop()
            stats = await wait_until_empty(admin)
            ledger.check_gaps()
            usage = resource.getrusage(resource.RUSAGE_SELF)
            counts = dict(ledger.counts)
            print(f"clients: {counts}; {(usage.ru_utime + usage.ru_stime) / (60 * options.minutes):.0%} of a core\n")
            print(f"       {'':38} {'server':>24} {'clients':>24}")
            table.row("violations of order and completeness", "", len(ledger.violations), not ledger.violations)
            compare(table, ledger, stats)
            rss = resident(server.pid, "VmRSS")
            table.row("memory, MiB: now, after the first round", f"{rss:.1f}", f"{warm:.1f}", rss <= warm * MEMORY_SLACK + 2)
            table.same("descriptors: now, at the start", await descriptors(server.pid), fds)
            server.terminate()
            code = await asyncio.to_thread(server.exit_code, 90)
            table.same("exit code after SIGTERM", code, 0)
        await asyncio.to_thread(compare_replay, table, options.lobbyd, path, stats)
    print("all checks passed" if table.passed else "failed")
    return 0 if table.passed else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    sys.exit(asyncio.run(main(parser.parse_args())))
