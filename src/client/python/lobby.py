"""The client of lobbyd for Python: a member of a lobby that comes back to its seat when its connection is lost.

One file; depends on `websockets`. README.md shows its use, src/guide/clients.md describes the API, and src/guide/protocol.md the messages.

    idle --connect()--> connecting --welcome, list--> open --lost--> waiting --time--> connecting --> …
    each of them --leave(), or a close that says not to come back--> closed
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import functools
import http.client
import inspect
import json
import logging
import math
import random
import re
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from ssl import SSLContext
from typing import Any, NamedTuple, TypeGuard, Union
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.protocol import State

__all__ = ["Change", "Closed", "Lobby", "LobbyError", "Member", "Meta", "join"]

# Bytes of the requests that are kept, and those that may wait for the socket before volatile messages are dropped.
MAX_BYTES = 65_536
MAX_UNREAD = 1_000
# The server allows 16 unanswered requests of a session.
MAX_SENT = 16
# The server itself allows 10 s for authorization. The list may take as long after the welcome.
CONNECT_SECONDS = 15.0
CLOSE_SECONDS = 2.0
# Turns of the event loop between `ready` and the first event, so that `wait_for(join(…))` returns before.
EARLY_TURNS = 10
# Events that are not named after a type of messages. The second ones are the game's, unless the server has lobby control on.
EVENTS = frozenset("join leave away back members gap connection error message direct binary".split())
CONTROL_EVENTS = frozenset("data host settings countdown start".split())
# Fields of a goodbye.
GOODBYE = {"code": (int,), "reason": (str,), "url": (str,), "reconnect": (bool,), "retry_after_ms": (int, float)}
# The event of every message, for iterators. No text: that could be the type of a message.
_ANY: Any = object()
_log = logging.getLogger("lobbyd")

Json = dict[str, Any]
Token = Union[str, None, Callable[[], Union[str, None, Awaitable[Union[str, None]]]]]


class LobbyError(Exception):
    """`code` is the reason word of a close, the code of an `error` of the server, or a code of this client."""

    def __init__(self, code: str, message: str | None = None, details: Json | None = None) -> None:
        super().__init__(message or code)
        self.code = code
        self.details = details or {}


class Meta(NamedTuple):
    """What is known of a message beside its data."""

    sender: str | None
    """User id; `None`: the operator or the application."""
    type: str | None
    seq: int | None
    """Number in the lobby. Direct and volatile messages have none."""
    is_direct: bool


class Change(NamedTuple):
    """Where a change of data or settings comes from."""

    by: str | None
    """User id; `None`: the application, an operator or the server."""
    seq: int


class Closed(NamedTuple):
    """Why a connection or the lobby was closed."""

    code: int
    reason: str
    wait: float | None = None
    """Seconds until the next attempt, if there is one."""
    error: BaseException | None = None
    """Why the attempt failed, if no connection was opened."""


async def join(url: str, **options: Any) -> Lobby:
    """Joins a lobby. Its members are known when this returns. The options are those of `Lobby`."""
    lobby = Lobby(url, **options).connect()
    try:
        return await lobby.ready
    except asyncio.CancelledError:
        lobby.leave()
        raise


class Member:
    """A seat."""

    def __init__(self, lobby: Lobby, user: str, conn: str, data: Json) -> None:
        self._lobby = lobby
        self.user = user
        self.conn = conn
        self.away = False
        self.data = data

    @property
    def host(self) -> bool:
        return self._lobby.host is self

    def set(self, data: Json, **options: Any) -> asyncio.Future[Json]:
        """Changes the data of this member: one's own, or as the host that of others."""
        return self._lobby.set(data, of=self, **options)

    def __repr__(self) -> str:
        return f"<Member {self.user}{' (away)' if self.away else ''}>"


class _Request:
    """A request that is not settled."""

    __slots__ = ("text", "ref", "is_control", "future")

    def __init__(self, text: bytes, is_control: bool, future: asyncio.Future[Json]) -> None:
        self.text, self.ref, self.is_control, self.future = text, 0, is_control, future


class Lobby:
    """A member of a lobby. Made in a running event loop, and used in the thread of that loop only.

    `token`: the token, or a function, plain or async, that returns it; called for each attempt. `was`: `session` of a client of an earlier
    process, whose seat this one takes over. `ssl`: the context of `wss` addresses. `heartbeat`: after so many seconds of silence the
    client asks for a sign of life, and gives the connection up without one within half that time; 0 or `None`: never. Further options are
    those of `websockets.asyncio.client.connect`, such as `compression="deflate"`, `additional_headers` or `proxy`.

    Raises a `LobbyError` with the code `bad_url` or `bad_lobby_code` for an address that can never work.
    """

    def __init__(self, url: str, *, token: Token = None, was: str | None = None, ssl: SSLContext | None = None,
                 heartbeat: float | None = 20.0, **options: Any) -> None:
        _check_address(url)
        self.url = url
        self.token = token
        self.ssl = ssl
        self.heartbeat = heartbeat
        # A frame of the server can be as large as its `max_outbound_bytes`, which no message states; so `max_size` has no default. The
        # library's own keepalive would give the seat up: it closes with 1011.
        self.options: Json = {"compression": None, "max_size": None, "ping_interval": None, "open_timeout": None,
                              "close_timeout": CLOSE_SECONDS, **options}

        self.state = "idle"
        # Why the lobby waits for the next attempt, or is closed: as in the last event `connection`.
        self.why: Closed | None = None
        # By `conn`, in the order in which they joined.
        self.members: dict[str, Member] = {}
        # Number of members, also in a lobby that is too large for a list.
        self.count = 0
        # Watchers have none.
        self.me: Member | None = None
        self.welcome: Json | None = None
        # Shortest recent round trip in milliseconds.
        self.latency: int | None = None

        # Empty without lobby control. Objects that were read are not changed: each change makes a new one.
        self.data: Json = {}
        self.settings: Json = {}
        self.watchers = 0
        # When the game starts, in milliseconds since the Unix epoch.
        self.countdown: int | None = None
        self._host: str | None = None

        # Of a list of lobbies.
        self.lobbies: _Entries | None = None
        self.more = False

        self._loop = asyncio.get_running_loop()
        # Chosen once in the life of a process.
        self._session = secrets.token_urlsafe(24)
        # Until the first welcome.
        self._was = was
        self._is_watcher = re.search(r"[?&]role=watch(&|\Z)", url) is not None

        # The current attempt or connection. What another one reports is ignored.
        self._link: _Link | None = None
        # The first list was read: from now on changes are told.
        self._is_known = False
        # By name, and those of requests. `pause` is one that the server has asked for.
        self._timers: dict[Any, asyncio.TimerHandle] = {}
        # When something of the current connection has arrived.
        self._heard_at = 0.0
        self._attempt = 0
        self._is_expired = False
        # An attempt of this process, or of the one before, had no answer: it may still reach the server, and displace a later connection.
        self._has_stray = was is not None
        # Of the server that has the lobby, if a goodbye has named one.
        self._home: str | None = None
        self._not_before = 0.0
        # Ends when the connection of a lobby that was left is closed on both sides.
        self._closing: asyncio.Future[Any] | None = None

        # Where to continue: epoch and `seq`, and the number of the last direct message.
        self._position: tuple[int, int] | None = None
        self._n = 0
        self._has_gap = False

        # Requests that are not settled, in order, as a set; those without `ref` are not sent.
        self._kept: dict[_Request, None] = {}
        self._kept_bytes = 0
        # Requests without an answer by `ref`, among them those that have timed out.
        self._sent: dict[Any, _Request] = {}
        self._ref = 0
        # When the server last refused a message for its rate, and when the last request or volatile message was sent. In milliseconds.
        self._limited_at = self._said_at = -math.inf

        # The last ones: (round trip, the server's time minus ours), in milliseconds.
        self._samples: collections.deque[tuple[int, float]] = collections.deque(maxlen=8)
        self._offset = time.time() * 1000 - self._milliseconds()

        self._listeners: dict[str, dict[int, Callable[..., Any]]] = {}
        self._listener_ids = 0
        # Events before `ready`: they wait for the listeners that are added after `await join()`.
        self._early: list[tuple[Any, ...]] | None = []
        # Of callbacks and of connections that close.
        self._tasks: set[asyncio.Future[Any]] = set()
        self._ready: asyncio.Future[Lobby] = self._loop.create_future()
        # A program that does not use `ready` hears of its failure by the event `connection`.
        self._ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())

    # ---- lists of lobbies ----

    @classmethod
    def list(cls, url: str, *, pool: str | None = None, tags: Mapping[str, str] | None = None, **options: Any) -> Lobby:
        """The lobbies that can be joined, live: `lobbies`, at most 100 of them, the oldest first; `more`: there are others."""
        lobby = cls(_filtered(url, pool=pool, tags=tags), **options)
        lobby.lobbies = []
        return lobby.connect()

    @classmethod
    async def find(cls, url: str, *, pool: str | None = None, tags: Mapping[str, str] | None = None, after: str | None = None,
                   ssl: SSLContext | None = None) -> Json:
        """The same once: `{"lobbies", "next"}`. `after` is the `next` of the answer before."""
        parts = urlsplit(_filtered(url, pool=pool, after=after, tags=tags))
        scheme = parts.scheme.replace("ws", "http")
        address = urlunsplit(parts._replace(scheme=scheme, path=parts.path.replace("/ws/~", "/")))
        status, body = await asyncio.to_thread(cls._get, address, ssl)
        if status != 200:
            raise LobbyError({404: "no_control", 429: "rate_limited"}.get(status, "unavailable"), details={"status": status})
        answer: Any = None
        with contextlib.suppress(ValueError):
            answer = json.loads(body)
        if not isinstance(answer, dict) or not isinstance(answer.get("lobbies"), list):
            raise LobbyError("unavailable", "the answer is no list of lobbies", {"status": 200})
        return answer

    # ---- joining and leaving ----

    @property
    def ready(self) -> Awaitable[Lobby]:
        """Completes with this lobby when its members are known, or with a `LobbyError` if it is closed before."""
        return asyncio.shield(self._ready)

    def connect(self) -> Lobby:
        """Starts to connect. Does nothing if it has already."""
        if self.state == "idle":
            self._open()
        return self

    def leave(self, *, keep_seat: bool = False) -> asyncio.Future[None]:
        """Gives the seat up; with `keep_seat` another process can take it over, with `was`, until its time is over.

        It has its effect at once: no callback is called any more. Await the result before the program ends, so that the server is told.
        """
        if self.state != "closed":
            if not keep_seat:
                self._say(b'{"type":"leave"}')
            # 1001: "going away". After it the seat is kept.
            self._drop(1001 if keep_seat else 1000)
            self._close(Closed(1000, "left"))
            self._early = None
            self._listeners.clear()
        return self._spawn(self._closed(), "it was not closed")

    async def _closed(self) -> None:
        if self._closing:
            await asyncio.wait([self._closing])

    async def __aenter__(self) -> Lobby:
        try:
            return await self.connect().ready
        except asyncio.CancelledError:
            self.leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    def wake(self) -> None:
        """For programs that learn that the network is back, or that the machine was suspended: looks at once whether the connection is
        alive, or ends the wait for the next attempt, as far as the server allows it."""
        if self.state == "waiting":
            self._retry_in(max(0.0, self._not_before - self._loop.time()))
        else:
            self._probe()

    @property
    def session(self) -> str:
        """What a later process passes as `was` to take over the seat. A secret of the user, like the token."""
        return self._was or self._session

    def now(self) -> int:
        """The server's time in milliseconds since the Unix epoch."""
        return round(self._milliseconds() + self._offset)

    @property
    def code(self) -> str | None:
        """What others join with."""
        return self.welcome["lobby"] if self.welcome else None

    @property
    def seq(self) -> int:
        """Number of the last message that was read, for `if_seq` of `set`."""
        return self._position[1] if self._position else 0

    @property
    def host(self) -> Member | None:
        return self.members.get(self._host) if self._host else None

    # ---- lobby control ----

    def set(self, data: Json, *, of: Member | str | None = None, if_seq: int | None = None,
            timeout: float | None = 10.0) -> asyncio.Future[Json]:
        """Changes data of the lobby, or of a member. `None` deletes a key. With `if_seq`, only if none of the keys has changed since."""
        conn = of.conn if isinstance(of, Member) else of
        return self._control("set", {"data": data, "of": conn, "if": if_seq}, timeout)

    def configure(self, settings: Json, *, timeout: float | None = 10.0) -> asyncio.Future[Json]:
        """As the host: changes some settings."""
        return self._control("settings", {"settings": settings}, timeout)

    def kick(self, who: Member | str, *, ban: bool = False, timeout: float | None = 10.0) -> asyncio.Future[Json]:
        """As the host: removes a user, a member or its id. With `ban` it cannot come back."""
        user = who.user if isinstance(who, Member) else who
        return self._control("kick", {"user": user, "ban": ban or None}, timeout)

    def unban(self, user: str, *, timeout: float | None = 10.0) -> asyncio.Future[Json]:
        """As the host."""
        return self._control("unban", {"user": user}, timeout)

    def hand_over(self, who: Member | str, *, timeout: float | None = 10.0) -> asyncio.Future[Json]:
        """As the host: makes another member the host."""
        return self._control("host", {"conn": who.conn if isinstance(who, Member) else who}, timeout)

    def _control(self, kind: str, fields: Json, timeout: float | None) -> asyncio.Future[Json]:
        given = {name: value for name, value in fields.items() if value is not None}
        return self._keep(kind, given, timeout, is_control=True)

    # ---- what is sent ----

    def request(self, type: str, payload: Any = None, *, timeout: float | None = 10.0) -> asyncio.Future[Json]:
        """Sends a request. The server executes it at most once, also if the connection is lost meanwhile. The result is its `ack`.
        `timeout=None`: no timeout."""
        return self._keep(type, payload, timeout)

    def _keep(self, kind: str, payload: Any, timeout: float | None, is_control: bool = False) -> asyncio.Future[Json]:
        text = _encode(kind, payload)
        future: asyncio.Future[Json] = self._loop.create_future()
        request = _Request(text, is_control, future)
        if self.state == "closed":
            future.set_exception(LobbyError("closed"))
        elif self._is_too_large(text):
            future.set_exception(LobbyError("too_large"))
        elif len(self._kept) > 63 or (self._kept and self._kept_bytes + len(text) > MAX_BYTES):
            future.set_exception(LobbyError("queue_full"))
        else:
            if timeout is not None:
                self._after(request, timeout, lambda: self._timed_out(request))
            self._kept[request] = None
            self._kept_bytes += len(text)
            self._flush()
        return future

    def _timed_out(self, request: _Request) -> None:
        self._settle(request, LobbyError("timeout"))
        self._probe()

    def send(self, type: str, payload: Any = None) -> bool:
        """Sends a message now or never. Returns whether it was sent."""
        return self._volatile(_encode(type, payload), is_text=True)

    def bytes(self, data: bytes | bytearray | memoryview) -> bool:
        """The same for a binary message."""
        return self._volatile(_Bytes(data), is_text=False)

    def _volatile(self, data: _Bytes, is_text: bool) -> bool:
        if self._is_too_large(data, is_text):
            raise LobbyError("too_large")
        is_blocked = "pause" in self._timers or (self._link is not None and self._link.unsent_bytes > MAX_BYTES)
        if is_blocked or self._is_too_soon() or not self._say(data, is_text):
            return False
        self._said_at = self._milliseconds()
        return True

    def _window(self) -> float:
        """How many requests may be unanswered: one after a refusal for the rate, and one more with each second since."""
        return min(MAX_SENT, 1 + (self._milliseconds() - self._limited_at) // 1000)

    def _is_too_soon(self) -> bool:
        """Volatile messages keep the distance of the server's rate for some time after a refusal: they need not wait for answers."""
        rate = ((self.welcome or {}).get("limits") or {}).get("messages_per_second")
        if not isinstance(rate, (int, float)) or rate <= 0 or self._window() >= MAX_SENT:
            return False
        return self._milliseconds() - self._said_at < 1000 / rate

    def _is_too_large(self, data: _Bytes, is_text: bool = True) -> bool:
        """A message above the server's limit would end the connection for good. 24 bytes are for a `ref`."""
        size = len(data) + (24 if is_text else 0)
        limits = (self.welcome or {}).get("limits") or {}
        return bool(size > limits.get("max_message_bytes", size))

    def _say(self, data: _Bytes, is_text: bool = True) -> bool:
        link = self._link
        if link is None or not self._can_say():
            return False
        link.send(data, is_text)
        return True

    def _can_say(self) -> bool:
        """A connection that is being closed takes nothing: a request that is not sent is given no number."""
        return self._link is not None and self._link.is_welcome and self._link.is_open()

    def _flush(self) -> None:
        for request in tuple(self._kept):
            if len(self._sent) >= self._window() or "pause" in self._timers or not self._can_say():
                return
            # Without a position a late attempt could make the server forget what it has executed.
            if self._position is None:
                return
            if request.ref:
                continue
            if request.future.cancelled():
                self._settle(request)
                continue
            # Without lobby control it would be a message to the other members.
            if request.is_control and not self._has_control():
                self._settle(request, LobbyError("no_control", "the server has lobby control off"))
                continue
            if self._is_too_large(request.text):
                self._settle(request, LobbyError("too_large"))
                continue
            self._ref += 1
            request.ref = self._ref
            self._sent[request.ref] = request
            self._say_request(request)

    def _has_control(self) -> bool:
        return bool(self.welcome and self.welcome.get("control"))

    def _say_request(self, request: _Request) -> None:
        self._said_at = self._milliseconds()
        self._say(b'%s,"ref":%d}' % (request.text[:-1], request.ref))

    def _settle(self, request: _Request, error: LobbyError | None = None, ack: Json | None = None) -> None:
        if request not in self._kept:
            return
        del self._kept[request]
        self._kept_bytes -= len(request.text)
        self._stop(request)
        if request.future.done():
            return
        if error:
            request.future.set_exception(error)
        else:
            request.future.set_result(ack or {})

    # ---- events ----

    def on(self, name: str, callback: Callable[..., Any], *, once: bool = False) -> Callable[[], None]:
        """Calls `callback`, plain or async, for each event, or each message of a type. Returns a function that removes it."""
        self._listener_ids += 1
        number = self._listener_ids
        listeners = self._listeners.setdefault(name, {})

        def off() -> None:
            listeners.pop(number, None)

        def call_once(*values: Any) -> Any:
            off()
            return callback(*values)

        listeners[number] = call_once if once else callback
        return off

    def once(self, name: str, callback: Callable[..., Any]) -> Callable[[], None]:
        """The same for one event."""
        return self.on(name, callback, once=True)

    async def __aiter__(self) -> AsyncIterator[tuple[Any, Any]]:
        """Yields data and `Meta` of each message from now on, until the lobby is closed; of a list the newest lobbies and `more`."""
        is_list = self.lobbies is not None
        unread: collections.deque[tuple[Any, Any]] = collections.deque()
        wakes = asyncio.Event()
        if is_list and self._is_known:
            unread.append((self.lobbies, self.more))

        def hear(data: Any, meta: Any) -> None:
            if is_list:
                unread.clear()
            if len(unread) <= MAX_UNREAD:
                unread.append((data, meta))
            wakes.set()

        removers = self.on(_ANY, hear), self.on("connection", lambda *_: wakes.set())
        try:
            while True:
                if len(unread) > MAX_UNREAD:
                    raise LobbyError("overflow")
                if unread:
                    yield unread.popleft()
                elif self.state == "closed":
                    # It may have been closed before it was open.
                    if self.why and self.why.reason != "left":
                        await self.ready
                    return
                else:
                    wakes.clear()
                    await wakes.wait()
        finally:
            for remove in removers:
                remove()

    def _tell(self, name: str, *values: Any) -> None:
        if self._is_known:
            self._emit(name, *values)

    def _emit(self, name: str, *values: Any) -> None:
        if self._early is not None and name != "connection":
            self._early.append((name, *values))
            return
        for number, callback in tuple(self._listeners.get(name, {}).items()):
            # One before it may have removed it, or left.
            if number not in self._listeners.get(name, {}):
                continue
            try:
                result = callback(*values)
                if inspect.isawaitable(result):
                    self._spawn(result, f"an async callback of {name!r} failed")
            # A callback that asks for the result of a cancelled task is no reason to end the task that reads the connection.
            except (Exception, asyncio.CancelledError) as error:
                self._report(f"a callback of {name!r} failed", error)

    def _spawn(self, work: Awaitable[Any], failure: str) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(work)

        def end(task: asyncio.Future[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()):
                self._report(failure, error)

        self._tasks.add(task)
        task.add_done_callback(end)
        return task

    def _report(self, message: str, error: BaseException) -> None:
        self._loop.call_exception_handler({"message": f"lobbyd: {message}", "exception": error})

    def _emit_early(self, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._emit_early, turns - 1)
            return
        early, self._early = self._early or [], None
        for event in early:
            self._emit(*event)

    def _after(self, key: Any, seconds: float, action: Callable[[], None], is_late: bool = False) -> None:
        due = self._loop.time() + seconds

        def act() -> None:
            # The event loop was blocked, or the process was stopped: what has arrived meanwhile is handled first. Not again: the program
            # may be slow.
            if self._loop.time() - due > 1.0 and not is_late:
                self._after(key, 0.1, action, is_late=True)
                return
            del self._timers[key]
            action()

        self._stop(key)
        self._timers[key] = self._loop.call_later(seconds, act)

    def _stop(self, key: Any) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()

    def _milliseconds(self) -> float:
        return self._loop.time() * 1000

    def _become(self, state: str, why: Closed | None = None) -> None:
        if self.state != state:
            self.state, self.why = state, why
            self._emit("connection", state, why)

    # ---- the connection ----

    def _open(self) -> None:
        link = self._link = _Link(self)
        self._limit(link)
        self._become("connecting")
        # A callback may have left the lobby.
        if link is self._link:
            link.start()

    def _limit(self, link: _Link) -> None:
        self._after("connect", CONNECT_SECONDS, lambda: self._lost(link, Closed(1006, "no_list" if link.is_welcome else "no_welcome")))

    def _address(self) -> str:
        """The address of the next attempt."""
        parts = urlsplit(self.url)
        if self._home:
            home = urlsplit(self._home)
            parts = parts._replace(scheme=home.scheme, netloc=home.netloc)
        if self.welcome:
            code = self.welcome["lobby"]
            path = re.sub(r"/(~quick/[^/]*|[^/]*)\Z", lambda _: f"/{code}", parts.path, count=1)
            # With `create=0`: the lobby may be gone with its server. Its members come back nevertheless.
            kept = [field for field in parse_qsl(parts.query, keep_blank_values=True) if field[0] != "create"]
            parts = parts._replace(path=path, query=urlencode(kept))
        parts = parts._replace(scheme=parts.scheme.replace("http", "ws"))
        fields: Json = {}
        # A list has no seat.
        if self.lobbies is None:
            fields = {"session": self._session, "was": self._was}
            if self._position:
                fields |= {"epoch": self._position[0], "seq": self._position[1], "n": self._n}
        return _with_query(urlunsplit(parts), fields)

    def _drop(self, code: int | None = None) -> None:
        """Ends the connection. One that is given up is closed without a code: the code 1000 would give the seat up, too."""
        link, self._link = self._link, None
        for key in "connect", "stable", "probe", "heartbeat", "retry":
            self._stop(key)
        if link:
            self._closing = link.close(code)

    def _lost(self, link: _Link, end: Closed, retry_after: float = 0.0) -> None:
        if link is not self._link:
            return
        self._drop()
        goodbye = link.goodbye
        code, reason = (goodbye["code"], goodbye.get("reason", "")) if goodbye else end[:2]
        url, reconnect = (goodbye.get("url"), goodbye.get("reconnect")) if goodbye else (None, None)
        # The server of the lobby. If it cannot be reached, the first address knows where the lobby is then.
        self._home = url or (self._home if link.is_welcome else None)
        # A token that has expired is renewed. If the new one is refused at once, a third would be, too.
        # A client that was replaced by its own stray attempt comes back. If there is a newer login, a client with a position is refused.
        if code == 4004:
            is_renewed = self._has_stray and self._position is not None
            self._has_stray = False
        else:
            is_renewed = reason == "token_expired" and not self._is_expired
        self._is_expired = code == 4001
        if code == 1006 and link.is_tried and not link.is_welcome:
            self._has_stray = True
        if code in (4001, 4004):
            comes_back = is_renewed
        else:
            comes_back = reconnect if reconnect is not None else code in (1001, 1005, 1006, 1011) or code // 100 in (41, 42, 45, 46)
        if not comes_back:
            _log.info("closed: %s %s", code, reason)
            self._close(Closed(code, reason, error=end.error))
            return

        asked = (goodbye or {}).get("retry_after_ms")
        least = max(asked if _is_wait(asked) else 0, retry_after * 1000) / 1000
        is_at_once = is_renewed or ((url or code // 100 in (42, 46)) and not self._attempt)
        # More than 20 s are never reached; a large exponent would only make a large number.
        growing = min(20.0, 0.5 * 2 ** min(self._attempt, 10))
        wait = max(least, 0.0 if is_at_once else self._random() * growing)
        self._attempt += 1
        self._not_before = self._loop.time() + least
        _log.info("connection lost: %s %s; next attempt in %.1f s", code, end.error or reason, wait)
        self._retry_in(wait)
        self._become("waiting", Closed(code, reason, wait, end.error))

    def _retry_in(self, seconds: float) -> None:
        self._after("retry", seconds, self._open)

    def _close(self, why: Closed) -> None:
        if not self._ready.done():
            self._ready.set_exception(LobbyError(why.reason or str(why.code), details={"code": why.code, "reason": why.reason}))
        for request in tuple(self._kept):
            self._settle(request, LobbyError("closed", details={"code": why.code, "reason": why.reason}))
        self._stop("pause")
        self._become("closed", why)

    def _probe(self, seconds: float = 3.0) -> None:
        """A dead connection looks like a silent one, until something is sent that must be answered. Another question does not postpone the
        end of the one before."""
        link, earlier = self._link, self._timers.get("probe")
        is_sooner = earlier is None or earlier.when() > self._loop.time() + seconds
        if link and is_sooner and self._ping():
            self._after("probe", seconds, lambda: self._lost(link, Closed(1006, "")))

    def _beat(self) -> None:
        """Asks if nothing has arrived for some time. What arrives does not set the timer anew."""
        if not self.heartbeat:
            return
        rest = self._heard_at + self.heartbeat - self._loop.time()
        if rest <= 0:
            self._probe(self.heartbeat / 2)
        self._after("heartbeat", rest if rest > 0 else self.heartbeat, self._beat)

    def _heard(self) -> None:
        self._heard_at = self._loop.time()
        self._stop("probe")

    def _ping(self) -> bool:
        # Its `ref` is a string, because integers are the numbers of requests.
        return self._say(b'{"type":"ping","ref":"%.3f"}' % self._milliseconds())

    # ---- what arrives ----

    def _receive(self, frame: str | _Bytes) -> None:
        self._heard()
        try:
            self._trace(False, frame)
            message = None
            if not isinstance(frame, str):
                self._emit("binary", frame)
            else:
                with contextlib.suppress(ValueError):
                    message = _decode(frame)
            if isinstance(message, dict) and isinstance(message.get("type"), str):
                self._handle(message)
        except Exception as error:
            self._report("fields are missing in a message of the server", error)

    def _handle(self, message: Json) -> None:
        kind, seq = message["type"], message.get("seq")
        if kind != "welcome" and type(seq) is int and self.welcome:
            self._position = (self.welcome["epoch"], max(seq, self.seq))
        handler = _HANDLERS.get(kind)
        if not handler and self._has_control():
            handler = _CONTROL_HANDLERS.get(kind)
        if not handler and self.lobbies is not None:
            handler = _LIST_HANDLERS.get(kind)
        (handler or Lobby._hear)(self, message)

    def _connected(self, link: _Link) -> None:
        self._limit(link)
        # The backoff begins anew after so long a connection.
        self._after("stable", 5.0, self._became_stable)
        if self.heartbeat:
            self._after("heartbeat", self.heartbeat, self._beat)

    def _became_stable(self) -> None:
        self._attempt = 0
        self._is_expired = False

    def _welcomed(self, welcome: Json) -> None:
        done, refused, n = welcome.get("done", 0), int(welcome.get("refused", "0"), 16), welcome.get("n", 0)
        # The session may have got another seat on a connection whose welcome was lost.
        resumed = welcome["resumed"] and welcome["conn"] == (self.welcome or welcome)["conn"]
        self._has_gap = self._has_gap or (self._position is not None and not welcome["recovered"])
        if not resumed or (self._position and self._position[0] != welcome["epoch"]):
            self._position = None
        self._n = max(n, self._n) if resumed else n
        self._was = self.latency = None
        self._samples.clear()
        self._offset = welcome["server_time"] - self._milliseconds()
        self.welcome = welcome
        if self._link:
            self._connected(self._link)
            self._link.is_welcome = True
        self._ref = max(self._ref, done)
        for ref, request in tuple(self._sent.items()):
            if resumed and ref > done and request in self._kept:
                self._say_request(request)
                continue
            del self._sent[ref]
            if not resumed:
                self._settle(request, LobbyError("unknown"))
            elif ref <= done and refused >> (done - ref) & 1:
                self._settle(request, LobbyError("refused"))
            else:
                self._settle(request)
        self._ping()
        self._flush()

    def _listed(self, state: Json) -> None:
        """The list replaces what was known. What differs is told, so that the events and `members` always agree."""
        welcome = self.welcome or {}
        conn, seq = welcome["conn"], state["seq"]
        entries = state.get("users")
        if entries is None:
            me = self.members.get(conn)
            own = {"user": welcome["user"], "conn": conn, "data": me.data if me else {}}
            entries = [] if self._is_watcher else [own]
        users = {entry["conn"]: entry["user"] for entry in entries}
        # A server that was started anew gives the names of seats again. With another user it is another member.
        gone = [{"user": who.user, "conn": who.conn, "reason": "unknown"} for who in self.members.values() if users.get(who.conn) != who.user]
        known, mine = self.members.get(conn), next((entry for entry in entries if entry["conn"] == conn), None)
        if mine is None:
            self.me = None
        elif known is None or known.user != mine["user"]:
            self.me = Member(self, mine["user"], conn, mine.get("data", {}))
        else:
            self.me = known
        self._changed({"joins": entries, "leaves": gone})
        for entry in entries:
            who = self.members[entry["conn"]]
            self._replace(who, "data", entry.get("data", {}), who, Change(None, seq))
        self.count = state.get("count", len(entries))
        self._flush()
        if not self._has_control():
            self._stated({"seq": seq})

    def _stated(self, state: Json) -> None:
        """The rest of what is known: it follows the list."""
        change = Change(None, state["seq"])
        self.watchers = state.get("watchers", 0)
        self._replace(self, "settings", state.get("settings", {}), change)
        self._replace(self, "data", state.get("data", {}), None, change)
        self._hosted({"conn": state.get("host")})
        self._counted({"at": state.get("countdown")})
        self._opened()
        if self._has_gap:
            self._emit("gap")
        self._has_gap = False

    def _opened(self) -> None:
        # A callback of what has just been told may have left the lobby.
        if self.state == "closed":
            return
        if not self._is_known:
            self._ready.set_result(self)
            self._emit_early(EARLY_TURNS)
        self._is_known = True
        self._stop("connect")
        self._become("open")

    def _changed(self, diff: Json) -> None:
        """Members of the first list are not told."""
        leaves = diff.get("leaves", ())
        # A user with a new seat leaves the former one first. A member may also have joined and left since the last change.
        former = [entry for entry in leaves if entry["conn"] in self.members]
        passing = [entry for entry in leaves if entry["conn"] not in self.members]
        for kind, entries in (("leave", former), ("join", diff.get("joins", ())), ("leave", passing),
                              ("away", diff.get("away", ())), ("back", diff.get("back", ()))):
            for entry in entries:
                conn = entry["conn"]
                member = known = self.members.get(conn)
                if member is None and self.me and self.me.conn == conn:
                    member = self.me
                elif member is None:
                    member = Member(self, entry["user"], conn, entry.get("data", {}))
                # A list names known members, too.
                name = ("away" if entry.get("away") else "back") if kind == "join" and known else kind
                was_away = member.away
                member.away = entry.get("away", name == "away")
                if name == "leave":
                    self.members.pop(conn, None)
                    self._tell(name, member, entry.get("reason"))
                    continue
                self.members[conn] = member
                if known is None or member.away != was_away:
                    self._tell(name, member)
        self.count = len(self.members)
        self._emit("members")

    def _set(self, state: Json) -> None:
        conn = state.get("conn")
        target = self.members.get(conn) if conn else self
        # In a lobby that is too large for a list the others are unknown.
        if target is None:
            return
        now = {name: value for name, value in (target.data | state["data"]).items() if value is not None}
        self._replace(target, "data", now, target if conn else None, Change(state["by"], state["seq"]))

    def _replace(self, target: Member | Lobby, name: str, now: Json, *about: Any) -> None:
        """Tells what differs."""
        before = getattr(target, name)
        changes = {key: now.get(key) for key in before | now if _text(before, key) != _text(now, key)}
        setattr(target, name, now)
        if changes:
            self._tell(name, changes, *about)

    def _configured(self, message: Json) -> None:
        self._replace(self, "settings", self.settings | message["settings"], Change(message["by"], message["seq"]))

    def _hosted(self, message: Json) -> None:
        if message["conn"] != self._host:
            self._host = message["conn"]
            self._tell("host", self.host)

    def _counted(self, message: Json) -> None:
        if message["at"] != self.countdown:
            self.countdown = message["at"]
            self._tell("countdown", self.countdown)

    def _started(self, message: Json) -> None:
        self.countdown = None
        self._tell("start", message.get("seats", []))

    def _listing(self, message: Json) -> None:
        """A list of lobbies, or what has changed since."""
        whole = message.get("lobbies")
        if self._link:
            if whole is not None:
                self._connected(self._link)
            self._link.is_welcome = True
        entries = {} if whole is not None else {entry["code"]: entry for entry in self.lobbies or ()}
        for code in message.get("gone", ()):
            entries.pop(code, None)
        for entry in message.get("set", ()) if whole is None else whole:
            entries[entry["code"]] = entry
        self.lobbies = [*entries.values()]
        self.more = message.get("more", self.more)
        self._opened()
        self._emit("lobbies", self.lobbies, self.more)
        self._emit(_ANY, self.lobbies, self.more)

    def _hear(self, message: Json) -> None:
        """A message is an event with the name of its type. If it has none, or that of another event, it is a `message` or `direct`."""
        kind, n = message["type"], message.get("n")
        is_direct = kind == "direct"
        if is_direct and n:
            # A server that was told no position sends direct messages again.
            if n <= self._n:
                return
            self._n = n
        content = message["data"] if is_direct or kind == "message" else message
        name = "direct" if is_direct else "message"
        typ = content.get("type") if isinstance(content, dict) else None
        if isinstance(typ, str):
            data: Any = {key: value for key, value in content.items() if key not in ("type", "ref")}
            if typ not in EVENTS and not (typ in CONTROL_EVENTS and self._has_control()):
                name = typ
        else:
            data, typ = content, None
        meta = Meta(message.get("from"), typ, message.get("seq"), is_direct)
        self._emit(name, data, meta)
        self._emit(_ANY, data, meta)

    def _answered(self, message: Json) -> None:
        ref = message.get("ref")
        answer = {name: value for name, value in message.items() if name not in ("type", "ref")}
        request = self._sent.get(ref)
        error = LobbyError(answer.get("code", "error"), answer.get("message"), answer) if message["type"] == "error" else None
        is_limited = error is not None and error.code == "rate_limited"
        if is_limited:
            self._limited_at = self._milliseconds()
            wait = answer.get("retry_after_ms")
            self._after("pause", wait / 1000 if _is_wait(wait) else 1.0, self._flush)
        if request is None:
            # Without a `ref` it answers a volatile message.
            if error and ref is None:
                self._emit("error", error)
            return
        del self._sent[ref]
        if is_limited:
            # The number is used up.
            request.ref = 0
        else:
            self._settle(request, error, answer)
        self._flush()

    def _sampled(self, pong: Json) -> None:
        ref = pong.get("ref")
        if not isinstance(ref, str):
            # Of a request, or of `send`.
            self._answered(pong)
            return
        now, then = self._milliseconds(), float(ref)
        round_trip, offset = now - then, pong["server_time"] - (now + then) / 2
        # One that contradicts is from before a sleep, during which this clock stood still.
        agreeing = [sample for sample in self._samples if abs(offset - sample[1]) <= (round_trip + sample[0]) / 2 + 5]
        self._samples.clear()
        self._samples.extend([(round(round_trip), offset), *agreeing][:8])
        self.latency, self._offset = min(self._samples, key=lambda sample: sample[0])

    def _asked(self, message: Json) -> None:
        self._say(_encode("health_pong", {"timestamp": message["timestamp"]}))

    def _dismissed(self, message: Json) -> None:
        """Fields of another type are left out: they would be found when the connection has ended, and nothing would come back."""
        goodbye = {name: message[name] for name, types in GOODBYE.items() if type(message.get(name)) in types}
        if self._link and "code" in goodbye:
            self._link.goodbye = goodbye

    # ---- what tests and tools replace, in a subclass ----

    async def _connect(self, url: str, **options: Any) -> ClientConnection:
        """Opens a WebSocket."""
        return await connect(url, **options)

    @staticmethod
    def _get(url: str, ssl: SSLContext | None) -> tuple[int, _Bytes]:
        """Status and body of a GET. Runs in a thread."""
        try:
            with urllib.request.urlopen(url, timeout=10, context=ssl) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""
        except (OSError, http.client.HTTPException):
            return 0, b""

    def _random(self) -> float:
        """From 0 to 1, for the waits between attempts."""
        return random.random()

    def _trace(self, is_sent: bool, frame: str | _Bytes) -> None:
        """Sees every message that is sent, before it is sent, and every frame that is received, before it has an effect."""


_Entries = list[Json]
_Bytes = bytes
_Handlers = dict[str, Callable[[Lobby, Json], None]]

_HANDLERS: _Handlers = {
    "welcome": Lobby._welcomed,
    "presence_state": Lobby._listed,
    "presence_diff": Lobby._changed,
    "ack": Lobby._answered,
    "error": Lobby._answered,
    "pong": Lobby._sampled,
    "health_ping": Lobby._asked,
    "goodbye": Lobby._dismissed,
}
_CONTROL_HANDLERS: _Handlers = {
    "lobby_state": Lobby._stated,
    "state": Lobby._set,
    "host": Lobby._hosted,
    "settings": Lobby._configured,
    "countdown": Lobby._counted,
    "start": Lobby._started,
}
_LIST_HANDLERS: _Handlers = {"lobbies": Lobby._listing, "lobbies_diff": Lobby._listing}


class _Link:
    """An attempt to connect, and the connection that follows. Does all input and output of a lobby."""

    def __init__(self, lobby: Lobby) -> None:
        self.lobby = lobby
        self.ws: ClientConnection | None = None
        # The server may have been asked.
        self.is_tried = False
        self.is_welcome = False
        self.goodbye: Json | None = None
        self.unsent: collections.deque[tuple[bytes, bool]] = collections.deque()
        self.unsent_bytes = 0
        self.writer: asyncio.Task[None] | None = None
        self.reader: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.reader = asyncio.create_task(self.run())

    async def run(self) -> None:
        end, retry_after = await self.attempt()
        if self.ws:
            try:
                end = await self.read(self.ws)
            except Exception as error:
                # Nothing would read the connection any more.
                self.lobby._report("a connection was not read", error)
        self.reader = None
        self.lobby._lost(self, end, retry_after)

    async def attempt(self) -> tuple[Closed, float]:
        """Connects. Returns why this has failed, and after how many seconds the server wants the next attempt."""
        lobby = self.lobby
        try:
            token = lobby.token() if callable(lobby.token) else lobby.token
            if inspect.isawaitable(token):
                token = await token
        except Exception as error:
            lobby._report("no token", error)
            return Closed(1006, "no_token", error=error), 0.0
        # Without one the server would refuse the client for good.
        if token is None and callable(lobby.token):
            return Closed(1006, "no_token"), 0.0
        try:
            subprotocols = ["lobby.v1.json"]
            if token:
                subprotocols.append("base64url.bearer.lobby." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("="))
            url = lobby._address()
            options = lobby.options if lobby.ssl is None or url.startswith("ws:") else lobby.options | {"ssl": lobby.ssl}
            self.is_tried = True
            options = {"create_connection": functools.partial(_Connection, self.heard), **options}
            self.ws = await lobby._connect(url, subprotocols=subprotocols, **options)
        except InvalidStatus as error:
            # It is answered, so it cannot reach the server later.
            self.is_tried = False
            after = error.response.headers.get("Retry-After", "")
            return Closed(1006, "", error=error), float(after) if after.isdecimal() else 0.0
        except Exception as error:
            # Of an option, or of this client. Others are failures of the network.
            if not isinstance(error, (OSError, EOFError, WebSocketException)):
                lobby._report("an attempt to connect failed", error)
            return Closed(1006, "", error=error), 0.0
        return Closed(1006, ""), 0.0

    async def read(self, ws: ClientConnection) -> Closed:
        try:
            while self.lobby._link is self:
                frame = await ws.recv()
                if self.lobby._link is self:
                    self.lobby._receive(frame)
        except ConnectionClosed:
            pass
        return Closed(int(ws.close_code or 1006), ws.close_reason or "")

    def heard(self) -> None:
        if self.lobby._link is self:
            self.lobby._heard()

    def is_open(self) -> bool:
        return self.ws is not None and self.ws.state is State.OPEN

    def send(self, data: bytes, is_text: bool) -> None:
        self.lobby._trace(True, data.decode() if is_text else data)
        self.unsent.append((data, is_text))
        self.unsent_bytes += len(data)
        if self.writer is None:
            self.writer = asyncio.create_task(self.write())

    async def write(self) -> None:
        try:
            while self.unsent and self.ws:
                data, is_text = self.unsent[0]
                await self.ws.send(data, text=is_text)
                self.unsent.popleft()
                self.unsent_bytes -= len(data)
        except ConnectionClosed:
            pass  # The reader is told.
        finally:
            self.writer = None

    def close(self, code: int | None) -> asyncio.Future[Any] | None:
        """With a code: after what has been sent before. Without: at once."""
        if self.ws and code:
            return self.lobby._spawn(self.finish(self.ws, code), "a connection was not closed")
        if self.ws:
            self.ws.transport.abort()
        elif self.reader:
            self.reader.cancel()
        return None

    async def finish(self, ws: ClientConnection, code: int) -> None:
        if self.writer:
            await asyncio.wait([self.writer], timeout=CLOSE_SECONDS)
        # The library waits for room in the socket without a limit.
        closing = asyncio.ensure_future(ws.close(code))
        await asyncio.wait([closing], timeout=2 * CLOSE_SECONDS)
        if not closing.done():
            ws.transport.abort()


class _Connection(ClientConnection):
    """Tells when bytes arrive: pings, and parts of a large message on a slow line, are signs of life, too."""

    def __init__(self, heard: Callable[[], None], *values: Any, **options: Any) -> None:
        super().__init__(*values, **options)
        self.heard = heard

    def data_received(self, data: _Bytes) -> None:
        self.heard()
        super().data_received(data)


def _check_address(url: str) -> None:
    """Raises an error for an address that can never work. An application may have routes of its own, but under `/ws/` is a lobby."""
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("ws", "wss", "http", "https") and re.fullmatch(r"\S+", parts.netloc) and parts.hostname
        # Raises an error.
        parts.port  # noqa: B018
    except ValueError:
        is_server = None
    if not is_server:
        raise LobbyError("bad_url", f"{url!r}: must begin with ws:// or wss:// and a host")
    if re.search(r"/ws/(?!~|[A-Za-z0-9_-]{1,64}\Z)[^/]*\Z", parts.path):
        raise LobbyError("bad_lobby_code", f"{url!r}: a lobby's name has 1 to 64 letters, digits, _ or -")


def _encode(kind: str, payload: Any) -> bytes:
    if isinstance(payload, Mapping):
        if "type" in payload or "ref" in payload:
            raise ValueError("the client sets type and ref")
        fields = dict(payload)
    else:
        fields = {} if payload is None else {"data": payload}
    text = json.dumps({"type": kind, **fields}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise LobbyError("bad_message", "a text has half of a surrogate pair") from None


def _integer(digits: str) -> int | float:
    """Python refuses to read integers of thousands of digits. Those larger than any float are infinite, as in browsers."""
    return int(digits) if len(digits) < 309 else float(digits)


_decode = json.JSONDecoder(parse_int=_integer).decode


def _is_wait(value: Any) -> TypeGuard[float]:
    """Whether it is a time in milliseconds. Python also reads `NaN` and `Infinity`."""
    return isinstance(value, (int, float)) and 0 <= value < 1e15


def _text(values: Json, key: str) -> str | None:
    """A value in a form to compare: in Python `1` equals `True`. `None`: there is none, which differs from `null`."""
    return json.dumps(values[key]) if key in values else None


def _filtered(url: str, *, tags: Mapping[str, str] | None, **filters: str | None) -> str:
    _check_address(url)
    return _with_query(url, filters | {f"tag.{name}": value for name, value in (tags or {}).items()})


def _with_query(url: str, fields: Mapping[str, Any]) -> str:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query.update({name: value for name, value in fields.items() if value is not None})
    # `websockets` refuses a fragment.
    return urlunsplit(parts._replace(query=urlencode(query), fragment=""))
