"""Members with the Rust client: users of `lobbyd::client`, in a process that is driven by JSON lines. See rust_member/src/main.rs."""

import asyncio
import json
import os
import random
import subprocess

from browser import HERE
from session_reports import Reports

SEND_EVERY = 1.0                # mean seconds between two messages of a member
CHANGE_EVERY = 40.0             # mean seconds between two changes of a member
TALK = {"broadcast": 40, "move": 15, "direct": 20, "nobody": 2, "quiet": 6, "ping": 3}
CHANGES = {"reload": 15, "leave": 5, "burst": 8}
MANIFEST = os.path.join(HERE, "rust_member", "Cargo.toml")


def build():
    """Builds the program. Returns its path."""
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, "../../target"))
    command = ["cargo", "build", "--locked", "--quiet", "--manifest-path", MANIFEST, "--target-dir", target, "--message-format", "json"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [message["executable"] for message in map(json.loads, lines) if message.get("executable")]
    return built[-1]


class RustMember(Reports):
    """One member: as those of sessions.py."""

    is_page = False

    def __init__(self, rig, lobby, number):
        self.rig, self.lobby, self.user = rig, lobby, f"rust{number}"
        self.random = random.Random(f"{rig.seed} rust {number}")
        self.number, self.unsettled, self.state = 0, set(), "idle"
        self.is_opening = False         # a new session was asked for, and has not begun
        self.is_leaving = False
        lobby.members.append(self)

    def do(self, what, **values):
        self.rig.rust.write({"do": what, "user": self.user} | values)

    def open(self, is_reload=False):
        self.is_opening = True
        self.do("open", url=f"{self.rig.url}/ws/{self.lobby.name}", reload=is_reload)

    def enter(self, at, kind, *values):
        if kind == "open":
            self.previous = self.book if values[0] else None
            self.is_opening = self.is_leaving = False
            self.state = "connecting"
        elif kind == "asked":
            self.unsettled.add(values[0])
        elif kind == "settled":
            self.unsettled.discard(values[0])
        elif kind == "state":
            self.state = values[0]
            if self.is_leaving and self.state == "closed":
                return self.open()
        super().enter(at, kind, *values)
        if kind == "state" and self.state == "closed":
            # The server has ended the session for good, which nobody asked for.
            self.open()

    async def live(self):
        while self.rig.talks():
            await self.rig.sleep(self.random.expovariate(1 / SEND_EVERY))
            if not self.rig.talks():
                break
            if self.is_opening or self.is_leaving or self.book is None:
                continue
            if self.random.random() < SEND_EVERY / CHANGE_EVERY:
                change = self.random.choices(list(CHANGES), CHANGES.values())[0]
                self.rig.changes[f"{change} of a Rust member"] += 1
                self.change(change)
            else:
                self.talk(self.random.choices(list(TALK), TALK.values())[0])

    def change(self, kind):
        if kind == "reload":
            self.open(is_reload=True)
        elif kind == "leave":
            self.book.has_left = self.is_leaving = True
            self.do("leave")
        else:
            for _ in range(self.random.randrange(10, 60)):
                self.talk(self.random.choice(["broadcast", "direct"]))

    def talk(self, kind):
        self.number += 1
        message_id = f"{self.book.name}:{kind}:{self.number}"
        data = {"id": message_id, "padding": "x" * self.random.choice([0, 0, 10, 100, 1000])}
        if kind == "broadcast":
            self.do("request", id=message_id, kind=kind, to=None, payload={"data": data})
        elif kind == "move":
            self.do("request", id=message_id, kind=kind, to=None, payload=data)
        elif kind in ("direct", "nobody"):
            others = [member.user for member in self.lobby.members if member is not self]
            to = self.random.choice(others) if kind == "direct" else "nobody"
            self.do("request", id=message_id, kind="direct", to=to, payload={"to": to, "data": data})
        elif kind == "quiet":
            self.do("send", kind="broadcast", payload={"data": data})
        else:
            self.do("send", kind="ping", payload={})

    # ---- as of `Member` ----

    async def is_settled(self):
        return self.is_open() and not self.unsettled

    def is_open(self):
        return self.state == "open" and not self.is_opening and self.has_joined()

    def repair(self):
        """A new session is opened when the end of the one before is reported."""

    async def list(self):
        self.do("send", kind="presence", payload={})
        await asyncio.sleep(1)

    def stop(self):
        self.do("stop")


class RustMembers:
    """The process of all Rust members. As an asynchronous context manager it ends it."""

    def __init__(self):
        self.members = {}

    async def __aenter__(self):
        program = await asyncio.to_thread(build)
        self.process = await asyncio.create_subprocess_exec(
            program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24)
        self.reader = asyncio.create_task(self.read())
        return self

    async def __aexit__(self, *_):
        self.process.stdin.close()
        code = await asyncio.wait_for(self.process.wait(), 60)
        await self.reader
        assert code == 0, f"the process of the Rust members has ended with {code}"

    def add(self, member):
        self.members[member.user] = member

    def write(self, command):
        self.process.stdin.write(json.dumps(command).encode() + b"\n")

    async def read(self):
        async for line in self.process.stdout:
            user, *report = json.loads(line)
            self.members[user].enter(*report)
