"""Runs the transcripts of tests/vectors/ against src/client/python/lobby.py, with a fake clock, network and random numbers.

    vectors.py [name]

Prints a JSON line for each: its error, or why it is skipped. tests/vectors/README.md describes the steps, and vector_runner.mjs runs them
for lobby.js.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import selectors
import sys
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import ConnectionClosedError
from websockets.protocol import State

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../src/client/python"))

from lobby import Lobby, LobbyError, Member  # noqa: E402

FOLDER = os.path.join(HERE, "../vectors")
SKIPPED = {
    "event-stream": "this client has no event streams",
    "event-stream-ends": "this client has no event streams",
    "event-stream-fails-too": "this client has no event streams",
    "event-stream-given-up": "this client has no event streams",
    "clock-set-back": "the clock of its event loop cannot be set back",
    "hidden-page": "a program is never hidden",
    "kept-page": "a program is not kept by a browser",
}
MESSAGE_EVENTS = ["move", "chat", "cursor", "snapshot", "message", "direct"]
CONTROL_EVENTS = ["data", "host", "settings", "countdown", "start"]
BEARER = "base64url.bearer.lobby."
# Far below the milliseconds of the transcripts. Timers are due so much later, so that none is due before time moves.
TICK = 1e-6
# Small, so that sums of milliseconds stay exact enough.
START = 1000.0


class FakeSelector(selectors.DefaultSelector):
    """Where an event loop waits. It does not: time jumps to the next timer, or the loop stops."""

    def __init__(self):
        super().__init__()
        self.loop = None
        self.now = START
        self.until = None                   # None: time stands still

    def select(self, timeout=None):
        self.loop.tolerate(0)
        if timeout is not None and timeout <= 0:
            return super().select(0)
        due = None if timeout is None else self.now + timeout - TICK
        if self.until is not None and due is not None and due <= self.until + TICK:
            self.now = due
            self.loop.tolerate(2 * TICK)
        else:
            self.now = max(self.now, self.until or 0)
            self.loop.stop()
        return []


class FakeLoop(asyncio.SelectorEventLoop):
    """An event loop with a fake clock. Threads run at once."""

    def __init__(self):
        self.clock = FakeSelector()
        super().__init__(self.clock)
        self.clock.loop = self
        self.reported = None
        self.set_exception_handler(self.report)

    def report(self, _loop, context):
        self.reported = self.reported or context.get("exception") or RuntimeError(context["message"])

    def time(self):
        return self.clock.now

    def call_at(self, when, callback, *args, context=None):
        return super().call_at(when + TICK, callback, *args, context=context)

    def tolerate(self, seconds):
        """Timers run that are due so much later than now."""
        self._clock_resolution = seconds

    def run_in_executor(self, _executor, function, *args):
        future = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def turn(self, function=lambda: None):
        """Calls a function in the loop. Then everything that is ready runs."""
        async def call():
            return function()

        task = self.create_task(call())
        self.run_forever()
        return task.result()

    def advance(self, milliseconds):
        self.clock.until = round(self.clock.now + milliseconds / 1000, 3)
        self.run_forever()
        self.clock.until = None


class FakeSocket:
    """The connection that the client gets instead of one of `websockets`."""

    def __init__(self, url, subprotocols):
        self.url, self.subprotocols = urlsplit(url), subprotocols
        assert not self.url.fragment, "as `websockets`"
        self.opened = asyncio.get_running_loop().create_future()
        self.frames = asyncio.Queue()
        self.state = State.CONNECTING
        self.closed_with = "it is open"
        self.close_code = self.close_reason = None
        self.transport = self
        self.said = None

    def open(self, said):
        self.said, self.state = said, State.OPEN
        self.opened.set_result(self)

    def end(self, code, reason):
        if self.state is State.CONNECTING:
            if not self.opened.done():
                self.opened.set_exception(ConnectionResetError("it fails"))
        else:
            self.frames.put_nowait((code, reason))
        self.state = State.CLOSED

    # ---- of `websockets` ----

    async def recv(self):
        frame = await self.frames.get()
        if isinstance(frame, tuple):
            self.close_code, self.close_reason = frame
            raise ConnectionClosedError(None, None)
        return frame

    async def send(self, data, text):
        if self.state is State.OPEN:
            assert text, "the client sent a binary message"
            self.said(json.loads(data))

    async def ping(self):
        pong = asyncio.get_running_loop().create_future()
        pong.set_result(0.0)
        return pong

    async def close(self, code):
        self.given_up(code)

    def abort(self):
        self.given_up(None)

    def given_up(self, code):
        if self.state in (State.CONNECTING, State.OPEN):
            self.closed_with = code
        self.state = State.CLOSED


class World:
    """What the client uses of the world."""

    def __init__(self):
        self.loop = FakeLoop()
        self.sockets, self.said, self.pings = [], [], []
        self.random = 0.5
        self.answer = None
        world = self

        class FakeLobby(Lobby):
            async def _connect(self, url, subprotocols, **_options):
                socket = FakeSocket(url, subprotocols)
                world.sockets.append(socket)
                try:
                    return await socket.opened
                except asyncio.CancelledError:
                    socket.given_up(None)
                    raise

            @staticmethod
            def _get(url, _ssl):
                assert world.answer, f"GET {url}"
                answer, world.answer = world.answer, None
                equal(url, answer["url"], "the address")
                return answer.get("status", 200), json.dumps(answer.get("body"))

            def _random(self):
                return world.random

            def _milliseconds(self):
                # Sums of seconds are not exact.
                return round(super()._milliseconds(), 2)

        self.Lobby = FakeLobby

    def heard(self, message):
        if message["type"] == "ping" and isinstance(message.get("ref"), str):
            self.pings.append(message["ref"])
        else:
            self.said.append(message)

    def close(self):
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.turn()
        self.loop.close()


def equal(got, wanted, what):
    got, wanted = (json.dumps(value, sort_keys=True, ensure_ascii=False) for value in (got, wanted))
    assert got == wanted, f"{what}: {got} instead of {wanted}"


class Run:
    """One run of one transcript. Each kind of step is a method."""

    def __init__(self, world):
        self.world = world
        self.lobby = self.socket = self.former = None
        # With which error the address was refused.
        self.refused = None
        self.events, self.outcomes, self.bound = [], {}, {}

    def step(self, step):
        world = self.world
        assert "client" in step or not world.said, f"the client said {world.said[:1]}"
        if not step.keys() & {"opens", "network"}:
            assert not world.sockets, f"the client opened {world.sockets[0].url.geturl()}"
        assert world.loop.reported is None or "reports" in step, f"{world.loop.reported!r} was reported"
        name = next(key for key in step if key != "note")
        method = getattr(self, f"step_{name}", None)
        assert method, f'there is no step "{name}"'
        # Those that let time pass run the loop themselves.
        if name in ("clock", "sleep"):
            method(step[name], step)
        else:
            world.loop.turn(lambda: method(step[name], step))
        world.loop.turn()

    # ---- what the application does ----

    def step_do(self, action, step):
        lobby = self.lobby
        if action == "join":
            self.join(**{name: step[name] for name in ("listener", "url", "tokenless") if name in step})
        elif action == "list":
            self.list(step.get("url", "ws://lobby.example/ws/~lobbies"), step.get("filters", {}))
        elif action == "find":
            self.outcome(step["id"], self.world.Lobby.find(step["url"], **step.get("filters", {})))
        elif action == "request":
            more = {"timeout": step["timeout"] / 1000} if "timeout" in step else {}
            self.outcome(step["id"], lobby.request(step["type"], step.get("payload"), **more))
        elif action == "set":
            self.outcome(step["id"], self.set(step))
        elif action in ("kick", "unban", "handOver", "configure"):
            method = getattr(lobby, "hand_over" if action == "handOver" else action)
            first, *options = step["with"]
            self.outcome(step["id"], method(self.member(first) or first, **(options[0] if options else {})))
        elif action == "send":
            equal(lobby.send(step["type"], step.get("payload")), step["sent"], "send()")
        elif action == "leave":
            lobby.leave()
        elif action == "reload":
            self.restart()
        else:
            raise AssertionError(f"nobody can do {action}")

    def join(self, listener=None, url="ws://lobby.example/ws/chess", was=None, tokenless=0):
        tokens = iter(range(1, 1000))

        def token():
            number = next(tokens)
            return f"token {number}" if number > tokenless else None

        self.refused = None
        try:
            lobby = self.lobby = self.world.Lobby(url, token=token, was=was)
        except LobbyError as error:
            self.refused = error.code
            return

        def throw(*_values):
            raise ValueError("of a listener")

        if listener == "throws":
            lobby.on("move", throw)
        if listener == "leaves first":
            lobby.on("leave", lambda *_values: lobby.leave())
        for name in "join", "leave", "away", "back", "gap":
            lobby.on(name, lambda *values, name=name: self.events.append(
                [name, *(value.user if isinstance(value, Member) else value for value in values)]))
        for name in MESSAGE_EVENTS:
            lobby.on(name, lambda data, meta: self.events.append(
                ["direct" if meta.is_direct else "message", meta.sender, data if meta.type is None else {"type": meta.type, **data}]))
        for name in CONTROL_EVENTS:
            lobby.on(name, lambda *values, name=name: self.events.append(self.told(name, *values)))
        if listener == "leaves":
            lobby.on("leave", lambda *_values: lobby.leave())
        lobby.connect()

    def told(self, name, first, meta=None, about=None):
        """An event of lobby control; without it, these are types of the game."""
        if hasattr(meta, "is_direct"):
            return ["typed", meta.sender, {"type": name, **first}]
        if name == "data":
            return [name, first, meta.user if isinstance(meta, Member) else meta, about.by]
        if name == "settings":
            return [name, first, meta.by]
        if name == "start":
            return [name, [seat["user"] for seat in first]]
        return [name, first.user if isinstance(first, Member) else first]

    def restart(self):
        """In place of a page that is reloaded: the process ends, and another one takes over its seat."""
        former, self.world.sockets[:] = self.lobby, []
        former.leave(keep_seat=True)
        self.events.clear()
        # Nothing of the former process is left, neither what it says nor what the server says to it.
        for timer in former._timers.values():
            timer.cancel()
        self.join(url=former.url, was=former.session)

    def list(self, url, filters):
        self.lobby = self.world.Lobby.list(url, **filters)
        self.lobby.on("lobbies", lambda lobbies, more: self.events.append(["lobbies", [entry["code"] for entry in lobbies], more]))

    def member(self, text):
        """The member in a text like `@bob`, or None."""
        return next((who for who in self.lobby.members.values() if f"@{who.user}" == text), None)

    def set(self, step):
        """`of`: whose data, with the method of the lobby or that of the member."""
        who, if_seq = self.member(step.get("of")), step.get("if")
        if step.get("by") == "member":
            return who.set(step["data"], if_seq=if_seq)
        return self.lobby.set(step["data"], of=who or step.get("of"), if_seq=if_seq)

    def outcome(self, name, awaitable):
        async def settle():
            try:
                self.outcomes[name] = {"ack": await awaitable}
            except LobbyError as error:
                more = {key: error.details[key] for key in ("seq", "data")} if error.code == "conflict" else {}
                self.outcomes[name] = {"error": error.code, **more}

        self.outcomes[name] = None
        asyncio.ensure_future(settle())

    # ---- the network ----

    def step_opens(self, opens, step):
        world = self.world
        kind = opens.get("kind", "WebSocket")
        assert kind == "WebSocket", f"the client has no {kind}"
        assert world.sockets, "the client opened no connection"
        self.former, self.socket = self.socket, world.sockets.pop(0)
        url = self.socket.url
        origin = urlsplit(opens.get("origin", "ws://lobby.example"))
        equal(url.path, opens.get("path", "/ws/chess"), "the path")
        equal(url.scheme, origin.scheme or "ws", "the protocol")
        equal(url.netloc, origin.netloc, "the host")
        query = parse_qs(url.query, keep_blank_values=True)
        assert all(len(values) == 1 for values in query.values()), f"the query {query}"
        for name, value in opens.get("query", {}).items():
            equal(query.get(name, [None])[0], self.value(value, query), f"?{name}")
        for name in opens.get("without", []):
            equal(query.get(name), None, f"?{name}")
        equal(self.socket.subprotocols[0], "lobby.v1.json", "the first subprotocol")
        bearers = [name.removeprefix(BEARER) for name in self.socket.subprotocols if name.startswith(BEARER)]
        token = base64url(bearers[0]) if bearers else query.get("token", [None])[0]
        if "token" in opens:
            equal(token, opens["token"], "the token")
        if step.get("accepts", True):
            self.socket.open(world.heard)

    def step_answers(self, answer, _step):
        """What the next GET must ask, and its answer. Stands before the step that asks."""
        self.world.answer = answer

    def value(self, wanted, query):
        """Binds a name at its first use."""
        if wanted is None:
            return None
        if not isinstance(wanted, str) or not wanted.startswith("$"):
            return str(wanted)
        if wanted not in self.bound:
            session = query.get("session", [""])[0]
            assert re.fullmatch(r"[A-Za-z0-9_-]{16,64}", session), f"?session is {session}"
            assert session not in self.bound.values(), "the session is not a new one"
            self.bound[wanted] = session
        return self.bound[wanted]

    def step_network(self, event, step):
        code, reason = step.get("code", 1006), step.get("reason", "")
        if event == "drops":
            self.socket.end(code, reason)
        elif event == "former ends":
            self.former.frames.put_nowait(json.dumps({"type": "message", "from": "bob", "seq": 99, "data": "late"}))
            self.former.frames.put_nowait((code, reason))
        elif event == "fails":
            self.socket = self.world.sockets.pop(0) if self.world.sockets else self.socket
            self.socket.end(1006, "")
        else:
            raise AssertionError(f"the network has no event {event}")

    def step_server(self, message, _step):
        text = json.dumps(message)
        if "$ping" in text:
            text = text.replace("$ping", self.world.pings[-1])
        if self.socket.state is State.OPEN:
            self.socket.frames.put_nowait(text)

    def step_raw(self, text, _step):
        self.socket.frames.put_nowait(text)

    def step_client(self, message, _step):
        if message["type"] == "ping" and "ref" not in message:
            assert self.world.pings, "the client sent no ping"
            return
        equal(self.world.said.pop(0) if self.world.said else None, message, "the client's message")

    def step_silent(self, _silent, _step):
        self.world.pings.clear()

    def step_pings(self, number, _step):
        equal(len(self.world.pings), number, "the number of pings")

    def step_closes(self, closes, _step):
        equal(self.socket.closed_with, closes.get("code"), "the code of the client's close")

    # ---- time ----

    def step_clock(self, milliseconds, _step):
        self.world.loop.advance(milliseconds)

    def step_random(self, value, _step):
        self.world.random = value

    def step_sleep(self, milliseconds, step):
        """Nothing runs for a while. Overdue timers run first, then what has arrived meanwhile."""
        loop = self.world.loop
        loop.clock.now += milliseconds / 1000
        loop.advance(0)
        for message in step.get("arrived", []):
            loop.turn(lambda message=message: self.step_server(message, step))

    def step_event(self, name, _step):
        assert name in ("online", "visible", "resume"), f"a program has no event {name}"
        self.lobby.wake()

    # ---- what the application sees ----

    def step_state(self, state, _step):
        equal(self.lobby.state, state, "the state")

    def step_hears(self, events, _step):
        equal(self.events, events, "the events")
        self.events.clear()

    def step_settled(self, settled, _step):
        wanted = {key: value for key, value in settled.items() if key != "id"}
        equal(self.outcomes.get(settled["id"]), wanted, f"the request {settled['id']}")

    def step_pending(self, names, _step):
        for name in names:
            equal(self.outcomes[name], None, f"the request {name}")

    def step_members(self, members, _step):
        equal([who.user + (" (away)" if who.away else "") for who in self.lobby.members.values()], members, "the members")

    def step_knows(self, fields, _step):
        """Fields of the lobby; `host`: its user, `members`: the data of members that have some, by user."""
        lobby, fields = self.lobby, dict(fields)
        if "host" in fields:
            host = fields.pop("host")
            equal(lobby.host and lobby.host.user, host, "the host")
            equal([who.user for who in lobby.members.values() if who.host], [] if host is None else [host], "members that are host")
        if "members" in fields:
            equal({who.user: who.data for who in lobby.members.values() if who.data}, fields.pop("members"), "data of members")
        if "me" in fields:
            me = lobby.members.get(lobby.welcome["conn"])
            assert lobby.me is me, f"the own member is {lobby.me} instead of {me}"
            equal(lobby.me and lobby.me.user, fields.pop("me"), "me")
        if "why" in fields:
            why = lobby.why
            equal(why and {"code": why.code, "reason": why.reason}, fields.pop("why"), "why")
        for name, value in fields.items():
            equal(getattr(lobby, name), value, name)

    def step_ready(self, outcome, _step):
        if self.refused:
            return equal(self.refused, outcome, "ready")
        ready = self.lobby._ready
        assert ready.done(), f"ready is pending instead of {outcome}"
        equal(ready.exception().code if ready.exception() else "resolved", outcome, "ready")

    def step_latency(self, milliseconds, _step):
        equal(self.lobby.latency, milliseconds, "the latency")

    def step_reports(self, _reports, _step):
        assert self.world.loop.reported, "no error was reported"
        self.world.loop.reported = None


def base64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


def run_vector(vector):
    """Runs a transcript. Returns "" or what is wrong."""
    world = World()
    run, number, step = Run(world), 0, None
    try:
        for number, step in enumerate(vector["steps"], 1):
            run.step(step)
        assert world.loop.reported is None, f"{world.loop.reported!r} was reported"
        assert not world.said and not world.sockets, "the client goes on after the last step"
        return ""
    except Exception as error:
        what = error if isinstance(error, AssertionError) else repr(error)
        return f"step {number} {json.dumps(step, ensure_ascii=False)}: {what}"
    finally:
        with contextlib.suppress(Exception):
            world.loop.turn(lambda: run.lobby and run.lobby.leave())
        world.close()


def main(name=None):
    for file in sorted(os.listdir(FOLDER)):
        if file.endswith(".json") and name in (None, file.removesuffix(".json")):
            with open(os.path.join(FOLDER, file), encoding="utf-8") as text:
                vector = json.load(text)
            if vector["name"] in SKIPPED:
                print(json.dumps({"name": vector["name"], "skipped": SKIPPED[vector["name"]], "error": ""}))
            else:
                print(json.dumps({"name": vector["name"], "error": run_vector(vector)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
