"""A client that resumes its session, with Python's `websockets`: `/ws/{lobby}?session=…&epoch=…&seq=…&n=…`.

It gives its requests rising numbers, sends those that are not answered again after a resume, and settles the others by the fields
`done` and `refused` of `welcome`. Everything it receives and settles also goes to its `SessionBook`.
"""

import asyncio
import collections
import json
import secrets

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

IN_FLIGHT = 16
OPEN_TIMEOUT = 4.0
BACKOFF, LONGEST_BACKOFF = 0.05, 1.0    # far shorter than a real client's: the test wants many resumes
FINAL = range(4000, 4100)


class Session:
    def __init__(self, url, lobby, user, book, rng, was=None):
        # A function is asked for each connection, so that a session can move to another server.
        self.url = url if callable(url) else lambda: url
        self.lobby, self.user, self.book, self.rng = lobby, user, book, rng
        self.name, self.was = secrets.token_urlsafe(24), was
        self.patience = rng.uniform(1.0, 7.0)       # seconds of silence before a probe
        self.position = None                        # (epoch, seq)
        self.n = 0                                  # number of the last direct message
        self.ref = 0
        self.pending = {}                           # by ref: (id, message), sent and not settled
        self.waiting = collections.deque()          # (id, kind, message) without a number yet
        self.settled_refs = collections.deque(maxlen=8)     # (ref, message, is refused)
        self.repeats = collections.Counter()        # refs that were sent again although they are settled
        self.outgoing = None                        # of the connection, once it is welcome
        self.wakes = asyncio.Event()
        self.is_open = asyncio.Event()
        self.closed = None                          # (code, reason) of the final close
        self.is_stopped = False
        self.ws = None
        self.epoch = None
        self.awaits_state = False
        self.presence = None                        # future of the answer to a request for a list
        self.paused_until = 0.0
        self.task = asyncio.create_task(self.run())

    # ---- the connection ----

    def address(self):
        address = f"{self.url()}/ws/{self.lobby}?token={self.user}&session={self.name}"
        if self.was:
            address += f"&was={self.was}"
        if self.position:
            address += "&epoch={}&seq={}&n={}".format(*self.position, self.n)
        return address

    async def run(self):
        attempt, loop = 0, asyncio.get_running_loop()
        while not self.is_stopped and self.closed is None:
            self.book.connecting(loop.time())
            opened, code, reason = await self.connection()
            self.book.disconnected(loop.time())
            if self.is_stopped:
                break
            attempt = 0 if opened else attempt + 1
            if code in FINAL or code == 1000:
                self.closed = (code, reason)
                break
            wait = self.rng.random() * min(LONGEST_BACKOFF, BACKOFF * 2 ** attempt)
            await asyncio.sleep(max(wait, self.paused_until - loop.time()))
        self.is_open.clear()

    async def connection(self):
        """One connection until its end. Returns whether it was welcome, and the close code and reason."""
        try:
            self.ws = await connect(self.address(), ping_interval=None, compression=None, max_size=None, proxy=None,
                                    open_timeout=OPEN_TIMEOUT, close_timeout=1)
        except InvalidHandshake as error:
            self.book.books.counts[f"refused: {error}"] += 1
            return False, 1006, ""
        except (OSError, TimeoutError, EOFError, ConnectionClosed):
            return False, 1006, ""
        if self.is_stopped:
            self.ws.transport.abort()
        opened, self.heard_at = False, asyncio.get_running_loop().time()
        helpers = [asyncio.create_task(self.probe(self.ws))]
        try:
            async for text in self.ws:
                if self.is_stopped:
                    break
                self.heard_at = asyncio.get_running_loop().time()
                message = json.loads(text)
                if message["type"] == "welcome":
                    opened = True
                    self.outgoing = collections.deque()
                    helpers.append(asyncio.create_task(self.write(self.ws, self.outgoing)))
                self.receive(message, len(text.encode()))
        except ConnectionClosed:
            pass
        finally:
            self.outgoing = None
            self.is_open.clear()
            for helper in helpers:
                helper.cancel()
            self.ws.transport.abort()
        rcvd = self.ws.protocol.close_rcvd
        return opened, rcvd.code if rcvd else 1006, rcvd.reason if rcvd else ""

    async def write(self, ws, outgoing):
        try:
            while True:
                while outgoing:
                    await ws.send(outgoing.popleft())
                self.wakes.clear()
                await self.wakes.wait()
        except ConnectionClosed:
            pass

    async def probe(self, ws):
        """Gives the connection up if it stays silent."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.patience / 2)
            if loop.time() - self.heard_at > self.patience + 1.5:
                self.book.books.counts["given up by the client"] += 1
                return ws.transport.abort()
            if loop.time() - self.heard_at > self.patience:
                self.put({"type": "ping", "ref": "probe"})

    def drop(self):
        """Cuts the connection from the client's side."""
        if self.ws:
            self.ws.transport.abort()

    def pause(self, seconds):
        self.paused_until = asyncio.get_running_loop().time() + seconds
        self.drop()

    def stop(self):
        """The page is gone: nothing that still arrives is read. Unsettled requests are lost with it."""
        if not self.is_stopped:
            self.is_stopped = True
            self.drop()
            self.abandon()

    def abandon(self):
        for message_id, _ in self.pending.values():
            self.book.settled(message_id, "unknown")
        for message_id, kind, message in self.waiting:
            self.book.requested(None, message_id, kind, message.get("to"), 0)
            self.book.settled(message_id, "unsent")
        self.pending.clear()
        self.waiting.clear()
        self.book.end(asyncio.get_running_loop().time())

    # ---- requests ----

    def put(self, message):
        if self.outgoing is not None:
            self.outgoing.append(json.dumps(message))
            self.wakes.set()

    def request(self, message_id, kind, message):
        """Executed exactly once, if the session lives."""
        self.waiting.append((message_id, kind, message))
        self.pump()

    def quiet(self, message):
        """A message without an answer: executed at most once."""
        if self.is_open.is_set():
            self.put(message)

    def pump(self):
        while self.waiting and len(self.pending) < IN_FLIGHT and self.is_open.is_set():
            message_id, kind, message = self.waiting.popleft()
            self.ref += 1
            self.pending[self.ref] = (message_id, message)
            self.book.requested(self.ref, message_id, kind, message.get("to"), asyncio.get_running_loop().time())
            self.put(message | {"ref": self.ref})

    def repeat(self):
        """Sends a request again that has been answered. The server must not execute it, and say so."""
        if self.settled_refs and self.is_open.is_set():
            ref, message, refused = self.rng.choice(self.settled_refs)
            self.repeats[ref] += 1
            self.put(message | {"ref": ref})

    def settle(self, ref, outcome, is_used=True):
        message_id, message = self.pending.pop(ref)
        self.book.settled(message_id, outcome)
        # A request whose number is not used up would be executed if it were sent again.
        if outcome != "unknown" and is_used:
            self.settled_refs.append((ref, message, outcome == "refused"))
        self.pump()

    # ---- what arrives ----

    def receive(self, message, size):
        self.book.receive(message, size, asyncio.get_running_loop().time())
        kind = message["type"]
        if kind == "welcome":
            self.welcomed(message)
        elif kind == "presence_state":
            self.listed(message)
        elif kind in ("ack", "error"):
            self.answered(message)
        elif kind == "direct":
            self.n = message["n"]
        if kind in ("message", "presence_diff", "ack") and message.get("seq") is not None:
            self.moved(message["seq"])

    def moved(self, seq):
        epoch, last = self.position or (None, 0)
        self.position = (self.epoch, max(seq, last) if epoch == self.epoch else seq)

    def welcomed(self, welcome):
        self.awaits_state, self.epoch = True, welcome["epoch"]
        self.was = None
        self.n = welcome["n"]
        if welcome["resumed"]:
            done, refused = welcome["done"], int(welcome["refused"], 16)
            for ref in [ref for ref in self.pending if ref <= done]:
                if done - ref >= 64:
                    self.book.problem(f"ref {ref} is too far below done {done}")
                self.settle(ref, "refused" if refused >> (done - ref) & 1 else "done")
            self.ref = max(self.ref, done)
        else:
            self.position = None
            self.settled_refs.clear()
            for ref in list(self.pending):
                self.settle(ref, "unknown")
        self.is_open.set()
        for ref, (_, message) in self.pending.items():
            self.book.books.counts["sent again"] += 1
            self.put(message | {"ref": ref})
        self.pump()

    def listed(self, state):
        self.awaits_state = False
        self.moved(state["seq"])

    def answered(self, answer):
        ref = answer.get("ref")
        refused = answer["type"] == "error"
        if ref == "list" and self.presence and not self.presence.done():
            self.presence.set_result(None)
        if answer.get("repeated"):
            known = {known: refusal for known, _, refusal in self.settled_refs}
            if not self.repeats[ref]:
                self.book.problem(f"unexpected {answer}")
            elif ref in known and known[ref] != refused:
                self.book.problem(f"{answer}, but before it was {'refused' if known[ref] else 'executed'}")
            self.book.books.counts["repeated"] += 1
        elif ref in self.pending:
            if refused:
                self.book.books.counts[f"error {answer['code']}"] += 1
            is_used = not refused or answer["code"] not in self.book.books.unused
            self.settle(ref, "refused" if refused else "acked", is_used)
        elif refused and ref is None and answer["code"] in self.book.books.tolerated:
            self.book.books.counts[f"error {answer['code']} without a ref"] += 1
        elif refused:
            self.book.problem(f"unexpected {answer}")
        elif not self.awaits_state and isinstance(ref, int):
            # Only a replay acknowledges what `done` has settled.
            self.book.problem(f"unexpected {answer}")

    async def list(self):
        """Asks for the members until a list arrives."""
        while True:
            await self.is_open.wait()
            self.presence = asyncio.get_running_loop().create_future()
            self.put({"type": "presence", "ref": "list"})
            try:
                return await asyncio.wait_for(self.presence, 2)
            except TimeoutError:
                pass
