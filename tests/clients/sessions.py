#!/usr/bin/env python3
"""Sessions under faults: members talk through a proxy that resets, closes, freezes and delays their connections.

    tests/clients/run --sessions [--seconds 300] [--members 200] [--pages 8] [--rust 0] [--seed N] [--tick-hz N] [path/to/lobbyd]

Members sit in lobbies of 10, and in one of 50 (at most half of all). They broadcast, send messages of their own type and direct
messages, with and without a `ref`, and repeat requests that are answered. Besides the proxy's faults they drop their connections,
reload (`was`), log in a second time, leave, and stay away for longer than the grace period; the operator asks users to reconnect,
and connections reach `max_lifetime`. Pages in Chromium, with the client of the guide, are members of the last lobby: they are
frozen, taken offline and reloaded. With `--rust N`, so many more members have the Rust client. When the faults have ended, the books of all members are compared: see `session_books.py`.

The default takes five minutes. Exit 0 only if nothing is lost or doubled, and nothing else is wrong.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import resource
import sys
import time

from drain import ask
from faulty_proxy import Proxy
from lobbyd import Lobbyd, default_binary
from session_books import Books, SessionBook
from session_client import Session
from session_pages import Page, Pages
from session_rust import RustMember, RustMembers

PER_LOBBY, LARGE_LOBBY = 10, 50
SEND_EVERY, SEND_EVERY_LARGE = 1.0, 2.0     # seconds between two messages of a member, on average
CHANGE_EVERY = 45.0                         # mean seconds between two changes of a member
FAULT_EVERY = 6.0                           # mean seconds between two faults of a connection
GRACE = 8.0
# Smaller than the defaults, so that they overrun now and then.
HISTORY = {"history_frames": 80, "history_bytes": 32 * 1024, "direct_frames": 8, "direct_bytes": 8 * 1024}
SETTLE_SECONDS = 90.0
MORE_SECONDS = 180.0
TALK = {"broadcast": 40, "move": 15, "direct": 20, "nobody": 2, "quiet": 6, "ping": 3, "repeat": 6, "rubbish": 1}
CHANGES = {"drop": 40, "pause": 15, "reload": 15, "second login": 10, "leave": 8, "absence": 4, "burst": 8}
SERVER_ARGS = ["--admin", "127.0.0.1:0", "--seat-grace", f"{GRACE:g}s", "--max-lifetime", "25s", "--ping-interval", "3s",
               "--pong-timeout", "2s", "--max-connections", 2000, "--max-per-lobby", LARGE_LOBBY + 10,
               "--messages-per-second", "unlimited", "--bytes-per-second", "unlimited",
               *(word for name, value in HISTORY.items() for word in ("--" + name.replace("_", "-"), value))]


class Member:
    """A user. It has one session after the other, each with a client of its own.

    `Rig` asks of members of any kind for `user`, `has_joined`, `is_settled`, `is_open`, `repair`, `live`, `list` and `stop`, and has opened
    them with `open`. Those that are no Python objects report what they do: see `session_reports.py`.
    """

    def __init__(self, rig, lobby, number):
        self.rig, self.lobby, self.user = rig, lobby, f"u{number}"
        self.random = random.Random(f"{rig.seed} member {number}")
        self.every = SEND_EVERY_LARGE if lobby.is_large else SEND_EVERY
        self.number = 0
        self.session = None
        lobby.members.append(self)

    def open(self, was=None):
        book = SessionBook(self.rig.books, self.lobby.name, self.user, was and was.book)
        self.session = Session(self.rig.url, self.lobby.name, self.user, book, self.random, was and was.client.session)
        return self.session

    async def live(self):
        while self.rig.talks():
            await self.rig.sleep(self.random.expovariate(1 / self.every))
            if self.session.closed:
                self.reopen()
            if not self.rig.talks():
                break
            if self.random.random() < self.every / CHANGE_EVERY:
                change = self.random.choices(list(CHANGES), CHANGES.values())[0]
                self.rig.changes[change] += 1
                await self.change(change)
            else:
                self.talk(self.random.choices(list(TALK), TALK.values())[0])

    def reopen(self):
        """The server has ended the session for good, which nobody asked for."""
        self.rig.ends["{} {}".format(*self.session.closed)] += 1
        self.session.stop()
        self.open()

    def talk(self, kind):
        session = self.session
        self.number += 1
        message_id = f"{session.book.name}:{kind}:{self.number}"
        padding = "x" * self.random.choice([0, 0, 10, 100, 1000])
        data = {"id": message_id, "padding": padding}
        if kind == "broadcast":
            session.request(message_id, kind, {"type": kind, "data": data})
        elif kind == "move":
            session.request(message_id, kind, {"type": kind, **data})
        elif kind == "direct":
            others = [member.user for member in self.lobby.members if member is not self]
            session.request(message_id, kind, {"type": kind, "to": self.random.choice(others), "data": data})
        elif kind == "nobody":
            session.request(message_id, "direct", {"type": "direct", "to": "nobody", "data": data})
        elif kind == "rubbish":
            session.request(message_id, "rubbish", {"type": "broadcast", "id": message_id})
        elif kind == "quiet":
            session.quiet({"type": "broadcast", "data": data})
        elif kind == "ping":
            session.quiet({"type": "ping"})
        else:
            session.repeat()

    async def change(self, kind):
        session = self.session
        if kind == "drop":
            session.drop()
        elif kind == "pause":
            session.pause(self.random.random() * GRACE * 0.5)
        elif kind == "absence":
            session.pause(GRACE + 2)
        elif kind == "burst":
            for _ in range(self.random.randrange(10, 60)):
                self.talk(self.random.choice(["broadcast", "direct"]))
        elif kind == "reload":
            session.stop()
            self.open(was=session)
        elif kind == "leave":
            await session.leave()
            session.stop()
            self.open()
        elif kind == "second login":
            # The older page gets 4004, or is closed.
            self.open()
            await session.ended(2)
            session.stop()

    def has_joined(self):
        return self.session.has_joined

    async def is_settled(self):
        return self.is_open() and not self.session.unsettled

    def is_open(self):
        return self.session.is_open()

    def repair(self):
        if self.session.closed:
            self.reopen()

    async def list(self):
        await self.session.list()

    def stop(self):
        self.session.stop()


class Lobby:
    def __init__(self, name, is_large):
        self.name, self.is_large, self.members = name, is_large, []


class Rig:
    def __init__(self, port, admin, pages, rust, options):
        self.port, self.url, self.admin, self.seed = port, f"ws://127.0.0.1:{port}", admin, options.seed
        self.books = Books(**HISTORY)
        self.changes, self.ends = collections.Counter(), collections.Counter()
        self.random = random.Random(f"{options.seed} rig")
        large = Lobby("large", True)
        self.lobbies, self.members = [large], [Member(self, large, n) for n in range(min(LARGE_LOBBY, options.members // 2))]
        # Members of all kinds are in the same lobbies.
        numbers = range(len(self.members), options.members)
        kinds = [(Member, n) for n in numbers] + [(RustMember, n) for n in range(options.rust)]
        self.random.shuffle(kinds)
        self.rust, self.rust_members = rust, []
        for kind, n in kinds:
            if len(self.lobbies[-1].members) >= PER_LOBBY or self.lobbies[-1].is_large:
                self.lobbies.append(Lobby(f"lobby-{len(self.lobbies)}", False))
            (self.members if kind is Member else self.rust_members).append(kind(self, self.lobbies[-1], n))
        for member in self.rust_members:
            rust.add(member)
        self.pages = [Page(pages, self, self.lobbies[-1], n) for n in range(options.pages)]

    def everybody(self):
        return self.members + self.rust_members + self.pages

    def talks(self):
        """Until the time is over. A short run goes on until the faults had each effect: what happens in it is chance."""
        now = time.monotonic()
        return now < self.until or now < self.until + MORE_SECONDS and not self.books.has_all_effects()

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)

    async def run(self, seconds):
        self.books.watch_loop()
        self.until = time.monotonic() + 3600
        for member in self.members + self.rust_members:
            member.open()
        for page in self.pages:
            await page.open()
        await self.wait("join", lambda member: member.has_joined())
        self.until = time.monotonic() + seconds
        lives = [asyncio.create_task(member.live()) for member in self.everybody()]
        operator = asyncio.create_task(self.operate())
        for life in asyncio.as_completed(lives):
            await life
        operator.cancel()

    async def operate(self):
        """The operator sends users to reconnect (4103)."""
        while True:
            await asyncio.sleep(0.5)
            member = self.random.choice(self.everybody())
            await asyncio.to_thread(post, self.admin, f"/users/{member.user}/kick", {"reconnect": True})

    async def wait(self, what, is_ready):
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            late = [member for member in self.everybody() if not await answer(is_ready(member))]
            if not late:
                return
            for member in late:
                member.repair()
            if time.monotonic() > end:
                return self.books.problem(f"{len(late)} members do not {what}, the first: {late[0].user}")
            await asyncio.sleep(0.1)

    async def settle(self):
        """Waits until all requests are settled, and all lists are complete."""
        await self.wait("settle their requests", lambda member: member.is_settled())
        # `back` may still be announced, and seats of sessions that ended have their grace period.
        await asyncio.sleep(GRACE + 2)
        await self.agree()

    async def agree(self):
        """Asks for lists until all members agree: on a busy machine one whose connection has reached its lifetime may be away for a moment."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            await self.wait("stay", lambda member: member.is_open())
            try:
                await asyncio.wait_for(asyncio.gather(*(member.list() for member in self.everybody())), SETTLE_SECONDS)
            except TimeoutError:
                return self.books.problem("not all members get a list")
            if not self.books.differences() or time.monotonic() > end:
                return
            await asyncio.sleep(1)


async def answer(value):
    return await value if asyncio.iscoroutine(value) else value


def post(port, path, body):
    text = json.dumps(body)
    return ask(port, f"POST {path} HTTP/1.1\nHost: localhost\nConnection: close\nContent-Type: application/json\n"
                     f"Content-Length: {len(text)}\n\n{text}")


async def main(options):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    args = SERVER_ARGS + (["--tick-hz", options.tick_hz] if options.tick_hz else [])
    print(f"{options.members} members and {options.rust} with the Rust client for {options.seconds:g} s, seed {options.seed}", flush=True)
    with Lobbyd(options.lobbyd, *args) as server:
        admin = int(server.wait_for_log(r"admin API on http://127\.0\.0\.1:(\d+)", 60).group(1))
        with Proxy(server.port, options.seed, FAULT_EVERY) as proxy:
            async with (Pages() if options.pages else contextlib.nullcontext() as pages,
                        RustMembers() if options.rust else contextlib.nullcontext() as rust):
                rig = Rig(proxy.port, admin, pages, rust, options)
                await rig.run(options.seconds)
                proxy.calm()
                await rig.settle()
                rig.books.check()
                for member in rig.everybody():
                    member.stop()
        server.terminate()
        code = await asyncio.to_thread(server.exit_code, 90)
    if code != 0:
        rig.books.problem(f"exit code {code} after SIGTERM")
    return report(rig, proxy)


def report(rig, proxy):
    books = rig.books
    counts = books.counts
    shown = ["resumes", "messages", "direct messages", "replayed"]
    print("faults of the proxy: " + listed(proxy.faults))
    print("changes of members: " + listed(rig.changes))
    print("counts: " + listed({name: count for name, count in counts.items() if name not in shown}))
    unasked = sum(rig.ends.values())
    print(f"sessions ended by the server: {listed(rig.ends) or 'none'}")
    if any(not end.startswith("4004") for end in rig.ends) or unasked > 5 + counts["resumes"] * 0.02:
        books.problem("too many sessions were ended")
    if not books.has_all_effects():
        books.problem("the faults did not have each effect: " + listed({name: counts[name] for name in EFFECTS}))
    incomplete = sum(books.reasons.values())
    print(f"seed {rig.seed}: " + ", ".join(f"{name} {counts[name]}" for name in shown)
          + f", lost {books.lost}, doubled {books.doubled}, recovered false {incomplete} ({listed(books.reasons) or 'never'}), "
          + f"problems {len(books.problems)}")
    return 1 if books.problems else 0


def listed(counts):
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--members", type=int, default=200)
    parser.add_argument("--pages", type=int, default=8)
    parser.add_argument("--rust", type=int, default=0, help="members with the Rust client, which cargo builds")
    parser.add_argument("--seed", default=str(random.randrange(10 ** 6)))
    parser.add_argument("--tick-hz", type=int, help="the server's --tick-hz; messages then wait for ticks")
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    sys.exit(asyncio.run(main(parser.parse_args())))
