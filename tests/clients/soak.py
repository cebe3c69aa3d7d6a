#!/usr/bin/env python3
"""A crowd that comes, talks, stalls, floods, drops and comes back for as long as you like: does everything add up in the end?

    tests/clients/run --soak [--minutes 30] [--clients 1000] [--seed 1] [path/to/lobbyd]

Python's `websockets`, and npm's `ws` for one client in twenty. Every message has a number, so each client checks what it
hears: nothing twice, nothing out of order, nothing missing between two messages of the same stay unless its speaker was told
that it was refused; `seq` without gaps; presence that is true. When all have gone, the server's statistics are held against
what the clients have counted, its memory against what it was after a first round, its descriptors against those at the start.
SIGTERM must end it with code 0, and `lobbyd replay` must confirm its journal, with the same totals.

What a client cannot know is compared as a range: after it has dropped a connection, or was ended, it does not know which of
the messages that nobody has answered have arrived; nor by which of three reasons the server noticed that it is gone.

Needs Linux, and in half an hour 3 GB of the folder for temporary files, for the journal. Exit 0 only if all of it held.
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
SPEAK_EVERY = 2.0               # seconds, on average
STAY = 30.0                     # or an eighth of the time there is
AWAY = 1.0
VISITS, WRONG_CODES = 0.04, 0.01
NODE_SHARE = 20                 # one client in so many
WARM_UP = 0.15                  # share of the time that goes to the first round
MEMORY_SLACK = 1.25             # times, and 2 MiB
PATIENCE = 20
LARGE = "x" * 40_000
TALK = {"broadcast": 50, "move": 20, "direct": 18, "presence": 6, "ping": 4, "rubbish": 2}
ENDS = {"close": 48, "leave": 15, "drop": 25, "again": 7, "flood": 4, "stall": 1}
GONE = (ConnectionClosed, ConnectionError)


class Refused(Exception):
    """The server has said goodbye before it said welcome."""


class Ledger:
    """What all clients have done and seen."""

    def __init__(self):
        self.counts = collections.Counter()
        self.closes = collections.Counter()     # reasons as far as clients know them; `drop`: theirs
        self.errors = collections.Counter()
        self.unknown = collections.Counter()    # what may have arrived, or may have been such an error, or not
        self.violations = []
        self.gaps = []                          # what somebody has not heard: whose, and the numbers from and to
        self.refused = collections.defaultdict(set)
        self.unanswered = collections.defaultdict(set)

    def violation(self, text):
        self.violations.append(text)
        if len(self.violations) <= 20:
            print(f"VIOLATION {text}", flush=True)

    def settle_gaps(self):
        """A number that nobody has heard is one that its speaker was refused, or of which it does not know."""
        for key, begin, end in self.gaps:
            lost = [n for n in range(begin, end) if n not in self.refused[key] and n not in self.unanswered[key]]
            if lost:
                self.violation(f"of {key} the numbers {lost[:10]} were lost")
        self.counts["gaps"] += len(self.gaps)
        self.gaps.clear()


class Stay:
    """One connection, from its welcome to its end."""

    number_ever = 0

    def __init__(self, ledger, client, user):
        Stay.number_ever += 1
        self.id = Stay.number_ever
        self.ledger, self.client, self.user = ledger, client, user
        self.welcome = asyncio.get_running_loop().create_future()
        self.reads = asyncio.Event()
        self.reads.set()
        self.goodbye = None
        self.dropped = False
        self.sent = 0
        self.pending = {}           # by ref: which number of whose it was, or None
        self.numbers = collections.Counter()
        self.heard = {}
        self.members = {}
        self.seq = None
        self.skipped = set()        # numbers of the lobby that may be this client's own messages
        self.own = 0
        self.unanswerable = 0       # messages without a ref
        self.reader = asyncio.create_task(self.read())

    # ---- what it hears ----

    async def read(self):
        try:
            while True:
                await self.reads.wait()
                frame = await self.client._next()
                if isinstance(frame, Closed):
                    break
                self.ledger.counts["frames"] += 1
                self.hear(json.loads(frame))
        except Exception as error:
            self.ledger.violation(f"{self.user} cannot make sense of what it hears: {error!r}")
            raise
        finally:
            if not self.welcome.done():
                self.welcome.set_exception(Refused())
        self.end(frame)
        return frame

    def hear(self, message):
        kind = message["type"]
        if kind == "message":
            self.count(message["seq"])
            if message["from"] not in self.members.values():
                self.ledger.violation(f"{self.user} hears {message['from']}, who is not here")
            data = message["data"]
            self.listen(data["from"] if "type" in data else data, None)
        elif kind == "direct":
            self.listen(message["data"], self.user)
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
                self.ledger.violation(f"{self.user} is told of {users} and knew {self.members}")
            if "ref" in message:
                self.answered(message)
        elif kind == "goodbye":
            self.goodbye = message["reason"]
        elif kind != "welcome":
            self.ledger.violation(f"{self.user} hears {message}")

    def count(self, seq):
        """Every number of the lobby comes once, and in order; those of its own messages come to everybody else."""
        if seq <= self.seq:
            self.ledger.violation(f"{self.user}: seq {seq} after {self.seq}")
        self.skipped.update(range(self.seq + 1, seq))
        self.seq = seq

    def listen(self, data, to):
        self.ledger.counts["heard"] += 1
        key = (data["stay"], to)
        last, n = self.heard.get(key), data["n"]
        if last is not None and n <= last:
            self.ledger.violation(f"{self.user} hears {n} of {key} after {last}")
        elif last is not None and n > last + 1:
            self.ledger.gaps.append((key, last + 1, n))
        self.heard[key] = n

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
                self.ledger.violation(f"{self.user} hears that {left} leaves, who is not here")
        for joined in diff["joins"]:
            if joined["conn"] in self.members:
                self.ledger.violation(f"{self.user} hears that {joined} joins, who is here")
            self.members[joined["conn"]] = joined["user"]

    # ---- what it says ----

    async def say(self, kind, more=None, answered=True):
        """One message, which is counted whether or not it arrives."""
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
            data = {"stay": self.id, "n": key[2], "padding": fields.pop("padding", "")}
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

    # ---- how it ends ----

    async def over(self):
        return await asyncio.wait_for(asyncio.shield(self.reader), PATIENCE)

    async def drop(self):
        self.dropped = not self.reader.done()
        await self.client.drop()

    async def flood(self, random):
        for _ in range(random.randrange(125, 200)):
            await self.say("broadcast")
        end = time.monotonic() + PATIENCE
        while self.pending and not self.reader.done() and time.monotonic() < end:
            await asyncio.sleep(0.1)

    async def stall(self, random):
        """Reads nothing while the server has more and more for it, and then goes on, if it may."""
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
        await asyncio.sleep(1)

    def end(self, closed):
        ledger = self.ledger
        for key in filter(None, self.pending.values()):
            ledger.unanswered[key[:2]].add(key[2])
        if len(self.skipped) > self.own:
            ledger.violation(f"{self.user} misses {len(self.skipped)} numbers of its lobby, and has used {self.own}")
        if self.dropped:
            reason = "drop"
        elif closed.code == 1006:
            reason = "unclear"
        else:
            # Our own close frame comes back without words.
            reason = closed.reason or ("peer_closed" if closed.code == 1000 else str(closed.code))
        ledger.closes[reason] += 1
        if self.goodbye and reason not in (self.goodbye, "drop", "unclear"):
            ledger.violation(f"{self.user} is told {self.goodbye}, and closed with {reason}")
        if reason == "rate_limited":
            # It was ended for the first of those that nobody has answered, and the others were not looked at.
            ledger.counts["ignored"] += len(self.pending) - 1
        elif reason not in ("peer_closed", "left"):
            ledger.unknown["messages"] += len(self.pending) + self.unanswerable
            ledger.unknown["rate_limited"] += len(self.pending)
            ledger.unknown["user_not_found"] += sum(1 for key in self.pending.values() if key and key[1])
            ledger.unknown["bad_message"] += self.unanswerable
        elif self.pending:
            # Whoever closes in good order, or leaves, has been heard to the end.
            ledger.violation(f"{self.user} got no answer to {list(self.pending.items())[:5]}")


class Crowd:
    def __init__(self, server, ledger, clients, seed, stay):
        self.server, self.ledger, self.clients, self.seed, self.stay = server, ledger, clients, seed, stay
        self.python, self.node = Python(), Node()
        self.rounds = 0

    async def round(self, seconds):
        """Everybody lives for so long, and goes."""
        self.rounds += 1
        self.until = time.monotonic() + seconds
        lives = [asyncio.create_task(self.live(n, random.Random(f"{self.seed} {self.rounds} {n}"), min(seconds / 3, 20)))
                 for n in range(self.clients)]
        for life in asyncio.as_completed(lives):
            try:
                await life
            except Exception as error:
                self.ledger.violation(f"a client ends with {error!r}")

    def left(self):
        return self.until - time.monotonic()

    async def live(self, n, random, spread):
        await asyncio.sleep(random.random() * spread)
        user, home = f"u{n}", f"l{n // PER_LOBBY}"
        library = self.node if n % NODE_SHARE == 0 else self.python
        stay = None
        while self.left() > 0:
            if stay is None:
                stay = await self.enter(library, self.destination(random, home), user)
                if stay is None:
                    await asyncio.sleep(random.expovariate(1 / AWAY))
                    continue
            try:
                stay = await self.visit(library, random, stay)
            except GONE:
                await stay.over()
                stay = None
            if stay is None:
                await asyncio.sleep(min(random.expovariate(1 / AWAY), max(self.left(), 0)))
        if stay is not None:
            await self.close(stay)

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
            # As little as possible: whoever stalls is to be noticed by the server, and not by the kernel.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.server.port))
            client = await library.open(url, sock=sock, compression=None, ping_interval=None, max_queue=4,
                                        open_timeout=PATIENCE, close_timeout=PATIENCE)
        else:
            client = await library.open(url)
        stay = Stay(self.ledger, client, user)
        stay.lobby = lobby
        try:
            await asyncio.wait_for(stay.welcome, PATIENCE)
        except Refused:
            self.ledger.counts["turned away"] += 1
            await client.close()
            return None
        self.ledger.counts["welcomes"] += 1
        return stay

    async def close(self, stay):
        await stay.client.close()
        await stay.over()

    async def visit(self, library, random, stay):
        """Talks for a while, and then does something that ends the stay, or not."""
        end = time.monotonic() + min(random.expovariate(1 / self.stay), max(self.left(), 0))
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(random.expovariate(1 / SPEAK_EVERY), left))
            if stay.reader.done():
                return None
            if time.monotonic() < end:
                await stay.talk(random)
        if self.left() <= 0:
            return stay
        how = random.choices(list(ENDS), ENDS.values())[0]
        self.ledger.counts[how] += 1
        if how == "again":
            newer = await self.enter(library, stay.lobby, stay.user)
            await stay.over()
            return newer
        if how == "flood":
            await stay.flood(random)
            return None if stay.reader.done() else stay
        if how == "stall":
            await stay.stall(random)
            return None if stay.reader.done() else stay
        if how == "drop":
            await stay.drop()
        elif how == "leave":
            await stay.say("leave", answered=False)
        else:
            await stay.client.close()
        await stay.over()
        return None



async def descriptors(pid):
    """How many there are when nobody comes or goes: an operator's connection takes a moment to end."""
    counts = []
    for _ in range(10):
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        await asyncio.sleep(0.1)
    return min(counts)


class Table:
    def __init__(self):
        self.held = True

    def row(self, what, server, clients, ok):
        self.held &= bool(ok)
        print(f"{'ok    ' if ok else 'FAILED'} {what:38} {server!s:>24} {clients!s:>24}", flush=True)

    def same(self, what, server, clients):
        self.row(what, server, clients, server == clients)

    def between(self, what, server, least, most):
        self.row(what, server, least if least == most else f"{least} to {most}", least <= server <= most)


async def settled(admin):
    """The statistics when nobody is there any more."""
    end = time.monotonic() + PATIENCE
    while True:
        stats = json.loads((await asyncio.to_thread(get, admin, "/stats"))[1])
        if stats["total_connections"] + stats["pending"] + stats["closing"] == 0:
            return stats
        if time.monotonic() > end:
            raise AssertionError(f"somebody is still there: {stats}")
        await asyncio.sleep(0.1)


def compare(table, ledger, stats):
    """The server's counts and the clients'."""
    counters, closed, errors = stats["counters"], stats["closed"], stats["errors"]
    counts, closes = ledger.counts, ledger.closes
    unclear, unknown = closes["unclear"], ledger.unknown
    table.same("connections", counters["accepted"], counts["connections"])
    table.same("connections that ended", sum(closed.values()), counts["connections"])
    table.same("welcomes: joined and taken over", counters["joined"] + counters["taken_over"], counts["welcomes"])
    table.same("left: all that joined", counters["left"], counters["joined"])
    sent = counts["sent"] - counts["ignored"]
    table.between("messages in", counters["messages_in"], sent - unknown["messages"], sent)
    table.row("frames out", counters["frames_out"], f"at least {counts['frames']}", counters["frames_out"] >= counts["frames"])
    # Who has dropped a connection may be noticed by reading, by writing, or because its user is there again.
    gone = closed.get("hangup", 0) + closed.get("write_failed", 0) + closed.get("replaced", 0)
    known = closes["drop"] + closes["replaced"]
    table.between("ends: dropped, replaced", gone, known, known + unclear)
    for reason in sorted((set(closed) | set(closes)) - {"hangup", "write_failed", "replaced", "drop", "unclear"}):
        table.between(f"ends: {reason}", closed.get(reason, 0), closes[reason], closes[reason] + unclear)
    for code in sorted(set(errors) | set(ledger.errors)):
        # Whoever is ended for an error is not told of it.
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
            admin = int(server.wait_for_log(r"operators are answered on http://127\.0\.0\.1:(\d+)", 10).group(1))
            await settled(admin)
            fds = await descriptors(server.pid)
            crowd = Crowd(server, ledger, options.clients, options.seed, min(STAY, 60 * options.minutes / 8))
            print(f"{options.clients} clients for {options.minutes:g} minutes, seed {options.seed}", flush=True)
            await crowd.round(60 * options.minutes * WARM_UP)
            await settled(admin)
            warm = resident(server.pid, "VmRSS")
            await crowd.round(60 * options.minutes * (1 - WARM_UP))
            await crowd.node.stop()
            stats = await settled(admin)
            ledger.settle_gaps()
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
            code = await asyncio.to_thread(server.exit_code, 40)
            table.same("exit code after SIGTERM", code, 0)
        await asyncio.to_thread(compare_replay, table, options.lobbyd, path, stats)
    print("all held" if table.held else "failed")
    return 0 if table.held else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    sys.exit(asyncio.run(main(parser.parse_args())))
