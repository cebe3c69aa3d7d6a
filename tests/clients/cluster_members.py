"""A share of the members of `cluster.py`, in a process of its own: complete lobbies, with their books.

The parent sends dicts over a pipe: `addresses` whenever they change, then `finish`, `check` and `stop`. The answers are `joined`,
`settled`, `checked` with all figures, and before that any number of `status`.
"""

import asyncio
import collections
import os
import random
import resource
import traceback

import sessions
from session_books import Books
from sessions import HISTORY, LARGE_LOBBY, PER_LOBBY, Lobby, Member, Rig, post

JOINING_AT_ONCE = 100
STATUS_EVERY = 10.0


class ClusterRig(Rig):
    """The members of the lobbies that this process has."""

    def __init__(self, pipe, share, options):
        self.pipe, self.seed, self.options = pipe, f"{options.seed} share {share}", options
        self.addresses = {"proxies": [], "members": [], "operators": []}
        self.url = self.pick
        self.books = Books(**HISTORY)
        # Half: in a large run the members read late what they were sent.
        self.books.grace = options.grace / 2
        # Another node learns later what was written.
        self.books.directs_for_one_again = 100
        # A node that is stopped, dead or without Redis cannot tell the others what its connections do.
        self.books.end_lag = 2 * options.lease
        # While a node cannot reach Redis. Then requests wait, and a message without a `ref` may be one too many.
        self.books.tolerated |= {"unavailable", "rate_limited"}
        # A node refuses them alone. The log, which all nodes share, does not know their numbers.
        self.books.unused |= {"unavailable", "bad_message"}
        self.changes, self.ends = collections.Counter(), collections.Counter()
        self.random = random.Random(f"{self.seed} rig")
        self.lobbies, self.members, self.rust_members, self.pages = [], [], [], []
        self.is_finishing = asyncio.Event()
        self.commands = asyncio.Queue()
        count = options.members // options.processes
        if share == 0:
            self.add_lobby("large", min(LARGE_LOBBY, count // 2), share)
        while len(self.members) < count:
            self.add_lobby(f"lobby-{share}-{len(self.lobbies)}", min(PER_LOBBY, count - len(self.members)), share)

    def add_lobby(self, name, size, share):
        lobby = Lobby(name, name == "large")
        self.lobbies.append(lobby)
        for _ in range(size):
            member = Member(self, lobby, f"{share}-{len(self.members)}")
            member.every = self.options.every
            self.members.append(member)

    def pick(self):
        """Returns the address for a connection: of a node that lives, or of a proxy before any node."""
        kind = "proxies" if self.random.random() < 0.5 else "members"
        return f"ws://127.0.0.1:{self.random.choice(self.addresses[kind] or self.addresses['proxies'])}"

    def talks(self):
        return not self.is_finishing.is_set()

    async def sleep(self, seconds):
        """Ends with the talk: members of a large run would sleep for minutes."""
        try:
            await asyncio.wait_for(self.is_finishing.wait(), seconds)
        except TimeoutError:
            pass

    async def receive(self):
        loop = asyncio.get_running_loop()
        while True:
            command = await loop.run_in_executor(None, self.pipe.recv)
            if "addresses" in command:
                self.addresses = command["addresses"]
            await self.commands.put(command)
            if "stop" in command:
                return

    async def expect(self, name):
        while name not in await self.commands.get():
            pass

    async def run(self):
        self.books.watch_loop()
        receiving = asyncio.create_task(self.receive())
        await self.expect("addresses")
        for start in range(0, len(self.members), JOINING_AT_ONCE):
            for member in self.members[start:start + JOINING_AT_ONCE]:
                member.open()
            await asyncio.sleep(0.5)
        await self.wait("join", lambda member: member.has_joined())
        self.pipe.send({"joined": len(self.members)})
        lives = [asyncio.create_task(member.live()) for member in self.members]
        others = [asyncio.create_task(self.operate()), asyncio.create_task(self.report_status())]
        await self.expect("finish")
        self.is_finishing.set()
        for life in asyncio.as_completed(lives):
            await life
        for task in others:
            task.cancel()
        await self.settle()
        self.pipe.send({"settled": True})
        await self.expect("check")
        await self.agree()
        self.books.check()
        for member in self.members:
            member.stop()
        self.pipe.send({"checked": self.figures()})
        await self.expect("stop")
        await receiving

    def figures(self):
        books = self.books
        names = {member.user: member.lobby.name for member in self.members}
        return {"counts": books.counts, "changes": self.changes, "ends": self.ends, "reasons": books.reasons, "lost": books.lost,
                "doubled": books.doubled, "problems": books.problems, "users": names}

    async def report_status(self):
        while True:
            await asyncio.sleep(STATUS_EVERY)
            is_open = sum(member.is_open() for member in self.members)
            self.pipe.send({"status": {"open": is_open, "messages": self.books.counts["messages"],
                                       "problems": len(self.books.problems)}})

    async def operate(self):
        """The operator of any node sends users to reconnect (4103)."""
        while True:
            await asyncio.sleep(0.5)
            user = self.random.choice(self.members).user
            operators = self.addresses["operators"]
            if operators:
                try:
                    await asyncio.to_thread(post, self.random.choice(operators), f"/users/{user}/kick", {"reconnect": True})
                except OSError:
                    pass            # the node is stopped or dead


def run(pipe, share, options):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

    # Members stay away for as long, and longer.
    sessions.GRACE = options.grace
    # The last fault may have cost a node its place, which it gets again after some leases.
    sessions.SETTLE_SECONDS += 5 * options.lease

    async def main():
        try:
            await ClusterRig(pipe, share, options).run()
        except Exception:
            traceback.print_exc()
            # The thread that waits for the parent would keep this process, and the parent waits for its answers.
            pipe.close()
            os._exit(1)

    try:
        asyncio.run(main())
    except (EOFError, KeyboardInterrupt):
        pass                        # the parent has ended
