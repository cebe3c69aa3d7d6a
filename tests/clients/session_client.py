"""Members of the rigs are users of src/client/python/lobby.py. What such a client sends, receives and settles goes to its `SessionBook`.

Beside the book, a `Session` keeps its own account of what the server has answered, and compares it with what the client tells about each
request.
"""

import asyncio
import collections
import json
import os
import sys
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import ConnectionClosed

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/client/python"))

from lobby import Lobby, LobbyError  # noqa: E402

OPEN_TIMEOUT = 4.0
SHORTER_WAITS = 0.1         # far shorter than a real client's: the test wants many resumes


class WatchedLobby(Lobby):
    """The client, with a session that sees its messages and can cut its connection."""

    def __init__(self, session, **options):
        super().__init__(f"{session.url()}/ws/{session.lobby}", **options)
        self.watcher, self.ws = session, None

    async def _connect(self, url, **options):
        self.watcher.connecting()
        # The server may be another one each time.
        address = urlunsplit(urlsplit(url)._replace(netloc=urlsplit(self.watcher.url()).netloc))
        self.ws = await super()._connect(address, **options)
        return self.ws

    def _random(self):
        return self.watcher.rng.random() * SHORTER_WAITS

    def _trace(self, is_sent, frame):
        if is_sent:
            self.watcher.sent(json.loads(frame))
        else:
            self.watcher.received(json.loads(frame), len(frame.encode()))


class Session:
    def __init__(self, url, lobby, user, book, rng, was=None):
        # A function is asked for each connection, so that a session can move to another server.
        self.url = url if callable(url) else lambda: url
        self.lobby, self.user, self.book, self.rng = lobby, user, book, rng
        self.loop = asyncio.get_running_loop()
        self.asked = {}                             # by id of a message: its kind, its receiver, and its refs
        self.unsettled = set()                      # ids of messages
        self.unanswered = {}                        # by ref: the message
        self.expected = {}                          # by ref: the outcome that the server has told
        self.lists = set()                          # refs of requests for a list
        self.settled_refs = collections.deque(maxlen=8)     # (ref, message, is refused)
        self.repeats = collections.Counter()        # refs that were sent again although they are settled
        self.closed = None                          # (code, reason) of the final close
        self.has_ended = asyncio.Event()
        self.is_stopped = self.has_joined = self.awaits_state = False
        self.paused_until = 0.0
        patience = rng.uniform(1.0, 7.0)            # seconds of silence before a ping
        self.client = WatchedLobby(self, token=self.token, was=was, heartbeat=patience, open_timeout=OPEN_TIMEOUT, proxy=None)
        self.client.on("connection", self.changed)
        self.client.connect()

    # ---- the connection ----

    async def token(self):
        """Is asked for each attempt. So a member that pauses has none."""
        await asyncio.sleep(self.paused_until - self.loop.time())
        return self.user

    def connecting(self):
        self.book.connecting(self.loop.time())

    def changed(self, state, why):
        if state in ("waiting", "closed"):
            self.book.disconnected(self.loop.time())
            if why.error:
                self.book.books.counts[f"failed attempts: {type(why.error).__name__}"] += 1
        if state == "closed":
            self.has_ended.set()
            if not self.is_stopped:
                self.closed = why[:2]

    def is_open(self):
        return self.client.state == "open"

    def drop(self):
        """Cuts the connection from the client's side."""
        if self.client.ws:
            self.client.ws.transport.abort()

    def pause(self, seconds):
        self.paused_until = self.loop.time() + seconds
        self.drop()

    async def leave(self):
        self.book.has_left = True
        await asyncio.wait([self.client.leave()], timeout=5)

    async def ended(self, seconds):
        await asyncio.wait([asyncio.ensure_future(self.has_ended.wait())], timeout=seconds)

    def stop(self):
        """The program is gone: nothing that still arrives is read. Requests that are not settled are lost with it."""
        if not self.is_stopped:
            self.is_stopped = True
            self.drop()
            self.client.leave(keep_seat=True)
            self.book.end(self.loop.time())

    # ---- requests ----

    def request(self, message_id, kind, message):
        """Sends a request with an id. It is executed at most once, and is sent again until the session has its outcome."""
        self.asked[message_id] = (kind, message.get("to"), [])
        self.unsettled.add(message_id)
        payload = {name: value for name, value in message.items() if name != "type"}
        # A member waits as long as it takes, so that every outcome is the server's.
        self.client.request(message["type"], payload, timeout=None).add_done_callback(lambda future: self.settled(message_id, future))

    def quiet(self, message):
        """A message without an answer: executed at most once."""
        if self.is_open():
            self.client.send(message["type"], {name: value for name, value in message.items() if name != "type"})

    def repeat(self):
        """Sends a request again that has been answered. The server must not execute it, and say so. As for each numbered request, the client
        has a position: it may have none between `welcome` and the list."""
        if self.settled_refs and self.is_open() and not self.awaits_state:
            ref, message, _ = self.rng.choice(self.settled_refs)
            self.repeats[ref] += 1
            asyncio.ensure_future(self.misbehave(self.client.ws, message))

    async def misbehave(self, ws, message):
        try:
            await ws.send(json.dumps(message))
        except ConnectionClosed:
            pass

    async def list(self):
        """Asks for the members until a list arrives."""
        await self.client.request("presence", timeout=None)

    def settled(self, message_id, future):
        """The client has settled a request."""
        self.unsettled.discard(message_id)
        kind, to, refs = self.asked.pop(message_id)
        error = future.exception()
        if error and not isinstance(error, LobbyError):
            return self.book.problem(f"{message_id}: {error!r}")
        code = error and error.code
        if not refs:
            if code not in ("closed", "queue_full"):
                self.book.problem(f"{message_id} was never sent, but settled: {code or future.result()}")
            self.book.requested(None, message_id, kind, to, 0)
            return self.book.settled(message_id, "unsent")
        ref = refs[-1]
        expected = self.expected.pop(ref, None)
        # What the client says, and what the server has said.
        outcome = {None: expected if expected in ("acked", "done") else "acked", "unknown": "unknown", "closed": "unknown"}.get(code, "refused")
        if code == "closed" and expected not in (None, "unknown"):
            self.book.problem(f"{message_id} is settled as closed, but the server has told: {expected}")
        if code != "closed" and outcome != expected:
            self.book.problem(f"{message_id} is settled as {code or future.result()}, but the server has told: {expected}")
        self.book.settled(message_id, outcome)
        self.unanswered.pop(ref, None)

    # ---- what the client sends ----

    def sent(self, message):
        ref = message.get("ref")
        if not isinstance(ref, int):
            return
        if message["type"] == "presence":
            self.lists.add(ref)
            return
        message_id = message["id"] if "id" in message else message["data"]["id"]
        kind, to, refs = self.asked[message_id]
        if ref in refs:
            self.book.books.counts["sent again"] += 1
        elif ref in self.book.refs or refs and self.expected.get(refs[-1]) != "limited":
            self.book.problem(f"{message_id} is sent as ref {ref}, before it was {refs}")
        else:
            refs.append(ref)
            self.book.requested(ref, message_id, kind, to, self.loop.time())
        self.unanswered[ref] = message

    # ---- what arrives ----

    def received(self, message, size):
        self.book.receive(message, size, self.loop.time())
        kind = message["type"]
        if kind == "welcome":
            self.welcomed(message)
        elif kind == "presence_state":
            self.awaits_state, self.has_joined = False, True
        elif kind in ("ack", "error"):
            self.answered(message)

    def welcomed(self, welcome):
        self.awaits_state = True
        done, refused = welcome["done"], int(welcome["refused"], 16)
        if not welcome["resumed"]:
            self.settled_refs.clear()
        for ref in list(self.unanswered):
            if not welcome["resumed"]:
                self.tell(ref, "unknown")
            elif ref <= done:
                if done - ref >= 64:
                    self.book.problem(f"ref {ref} is too far below done {done}")
                self.tell(ref, "refused" if refused >> (done - ref) & 1 else "done")

    def tell(self, ref, outcome, is_used=True):
        message = self.unanswered.pop(ref)
        self.expected[ref] = outcome
        # A request whose number is not used up would be executed if it were sent again.
        if outcome != "unknown" and is_used:
            self.settled_refs.append((ref, message, outcome != "acked" and outcome != "done"))

    def answered(self, answer):
        ref = answer.get("ref")
        refused = answer["type"] == "error"
        counts = self.book.books.counts
        if answer.get("repeated"):
            known = {known: refusal for known, _, refusal in self.settled_refs}
            if not self.repeats[ref]:
                self.book.problem(f"unexpected {answer}")
            elif ref in known and known[ref] != refused:
                self.book.problem(f"{answer}, but before it was {'refused' if known[ref] else 'executed'}")
            counts["repeated"] += 1
        elif ref in self.unanswered:
            if refused:
                counts[f"error {answer['code']}"] += 1
            is_limited = refused and answer["code"] == "rate_limited"
            is_used = not refused or answer["code"] not in self.book.books.unused and not is_limited
            self.tell(ref, "limited" if is_limited else "refused" if refused else "acked", is_used)
        elif ref in self.lists:
            pass
        elif refused and ref is None and answer["code"] in self.book.books.tolerated:
            counts[f"error {answer['code']} without a ref"] += 1
        elif refused:
            self.book.problem(f"unexpected {answer}")
        elif not self.awaits_state and isinstance(ref, int):
            # Only a replay acknowledges what `done` has settled.
            self.book.problem(f"unexpected {answer}")
