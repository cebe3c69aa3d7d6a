#!/usr/bin/env python3
"""The Python client src/client/python: its package and types, the conformance vectors, the bot of the guide, and members of a real server.

    tests/clients/run --python-client [--members 300] [path/to/lobbyd]

`--members` is the number of lobbies that one process joins. Prints a line per claim; exit 0 if all hold.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time

from attempts import attempts
from lobbyd import Lobbyd, default_binary
from suite import Tally

HERE = os.path.dirname(os.path.abspath(__file__))
CLIENT = os.path.normpath(os.path.join(HERE, "../../src/client/python"))
GUIDE = os.path.join(HERE, "../../src/guide/clients.md")
CERTIFICATES = os.path.join(HERE, "../it/tls/files")
sys.path.insert(0, CLIENT)

from lobby import Lobby, LobbyError, join  # noqa: E402

SERVER_ARGS = ["--lobby-control", "on", "--messages-per-second", "unlimited", "--bytes-per-second", "unlimited", "--max-connections", 2000,
               "--attempts-per-minute", "unlimited", "--max-message-bytes", "2MiB", "--max-outbound-bytes", "8MiB"]
# For what happens at all: a busy machine may take long.
SECONDS = 60
MAX_BYTES_PER_LOBBY, MAX_IDLE_SECONDS, MAX_MICROSECONDS = 100_000, 0.5, 200
USE = """
from lobbyd import Lobby, LobbyError, Member, join
async def use() -> int:
    lobby = await join("ws://127.0.0.1/ws/chess", token=lambda: "ann")
    await lobby.request("move", {"to": "e4"}, timeout=3)
    members: list[Member] = [*lobby.members.values()]
    return len(members) + lobby.now()
"""


class Network:
    """A TCP proxy to the server, which can cut its connections, or no longer pass anything on."""

    def __init__(self, port, tls=None):
        self.server_port, self.tls = port, tls
        self.writers, self.opened = set(), 0
        # What passes on in both directions, and what the server says.
        self.passes, self.answers_pass = asyncio.Event(), asyncio.Event()
        self.passes.set()
        self.answers_pass.set()
        self.bytes_to_server = 0
        self.first_answer = None
        # Seconds between pieces of 4 KiB.
        self.pause = None

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        self.cut()

    def url(self, lobby):
        return f"{'wss' if self.tls else 'ws'}://localhost:{self.port}/ws/{lobby}"

    def cut(self):
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader, writer):
        self.opened += 1
        if self.first_answer:
            # Unread bytes would reset the connection.
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.first_answer)
            self.first_answer = None
            return writer.close()
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.server_port)
        ours = {writer, upstream}
        self.writers |= ours
        await asyncio.gather(self.pipe(reader, upstream, is_answer=False), self.pipe(upstream_reader, writer, is_answer=True))
        self.writers -= ours

    async def pipe(self, reader, writer, is_answer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self.passes.wait()
                if is_answer:
                    await self.answers_pass.wait()
                else:
                    self.bytes_to_server += len(data)
                # It may change meanwhile.
                pause = self.pause
                for at in range(0, len(data), 4096) if pause else ():
                    writer.write(data[at:at + 4096])
                    await asyncio.sleep(pause)
                if not pause:
                    writer.write(data)
                await writer.drain()
        writer.close()


def equal(got, wanted, what):
    assert got == wanted, f"{what}: {got!r} instead of {wanted!r}"


async def until(what, holds, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


async def next_of(messages):
    """Returns a future of the next message of an iterator, which listens from now on: it may arrive before the next line is reached."""
    message = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0)
    return message


async def hears(future):
    return await asyncio.wait_for(future, SECONDS)


def heard_by(lobby, *names):
    """Returns the list of a lobby's events, in brief, to which new ones are appended."""
    heard = []
    for name in names:
        lobby.on(name, lambda *values, name=name: heard.append((name, *(getattr(value, "user", value) for value in values))))
    return heard


def error_of(action):
    """Returns the code of the error that a call raises."""
    try:
        action()
    except LobbyError as error:
        return error.code
    return "none"


# ---- claims ----

async def members_talk(server):
    ann = await join(server.url("talk"), token="ann")
    async with Lobby(server.url("talk"), token=lambda: asyncio.sleep(0, "Zoë 🎲")) as zoe:
        texts, blobs = [], []

        async def reply(data, meta):
            texts.append((data, meta.sender, meta.is_direct))
            await zoe.request("direct", {"to": meta.sender, "data": "hello"})

        zoe.on("chat", reply)
        zoe.on("binary", blobs.append)
        await until("the join", lambda: len(ann.members) == 2)
        equal([who.user for who in ann.members.values()], ["ann", "Zoë 🎲"], "the members")
        answer = await next_of(aiter(ann))
        equal((await ann.request("chat", "Grüße 👋")).keys(), {"seq"}, "the ack")
        data, meta = await hears(answer)
        equal((data, meta.sender, meta.is_direct), ("hello", "Zoë 🎲", True), "what ann hears")
        equal(texts, [({"data": "Grüße 👋"}, "ann", False)], "what Zoë hears")
        assert ann.bytes(bytes(range(256))) and ann.send("chat", {"to": 1})
        await until("binary", lambda: blobs)
        equal(blobs, [bytes(range(256))], "the binary message")
        await ann.request("chat", "x" * 1_500_000)
        await until("a message above a mebibyte", lambda: len(texts) == 3)
        large = ann.request("chat", "x" * 100_000)
        refused = [ann.request("chat", "x" * size) for size in (1, 10_000_000)]
        await large
        outcomes = await asyncio.gather(*refused, ann.request("direct", {"to": "nobody", "data": 1}), return_exceptions=True)
        equal([error.code for error in outcomes], ["queue_full", "too_large", "user_not_found"], "the errors")
        for rubbish in {"type": "x"}, {"x": float("nan")}:
            with contextlib.suppress(ValueError):
                ann.request("chat", rubbish)
                raise AssertionError(f"{rubbish} was sent")
        for say in ann.request, ann.send:
            equal(error_of(lambda say=say: say("chat", {"x": "\ud800"})), "bad_message", "half of a surrogate pair")
    await until("the leave", lambda: len(ann.members) == 1)
    await ann.leave()


async def lobby_control_and_lists(server):
    ann = await join(server.url("~new"), token="ann")
    heard = heard_by(ann, "data", "host", "settings")
    async with Lobby.list(server.url("~lobbies"), tags={"game": "duel"}) as lists:
        equal(lists.lobbies, [], "the list")
        await ann.configure({"listed": True, "tags": {"game": "duel"}})
        async for lobbies, _more in lists:
            if lobbies:
                break
    equal([entry["code"] for entry in lobbies], [ann.code], "the listed lobbies")
    found = await Lobby.find(server.url("~lobbies"), tags={"game": "duel"})
    equal([entry["code"] for entry in found["lobbies"]], [ann.code], "the lobbies that were found")
    bob = await join(server.url(f"{ann.code}?create=0"), token="bob")
    await bob.me.set({"ready": 1})
    await bob.me.set({"ready": True})
    await ann.set({"round": 1})
    await ann.hand_over(ann.members[bob.me.conn])
    await until("bob is told", lambda: bob.me.host)
    equal((ann.host.user, bob.data), ("bob", {"round": 1}), "what is known")
    equal([entry[:2] for entry in heard if entry[0] != "settings"],
          [("data", {"ready": 1}), ("data", {"ready": True}), ("data", {"round": 1}), ("host", "bob")], "what ann heard")
    await bob.kick("ann", ban=True)
    await until("the kick", lambda: ann.state == "closed")
    with contextlib.suppress(LobbyError):
        await join(server.url(ann.code), token="ann")
        raise AssertionError("a banned user joins")
    await bob.leave()


async def callbacks_that_fail_are_reported(server):
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    ann, bob = await join(server.url("fail"), token="ann"), await join(server.url("fail"), token="bob")

    def fail(error):
        raise error

    async def fail_later(_data, _meta):
        raise KeyError("later")

    bob.on("move", lambda *_: fail(ValueError("at once")))
    bob.on("move", fail_later)
    bob.on("move", lambda *_: fail(asyncio.CancelledError()))
    heard = heard_by(bob, "move", "connection")
    await ann.request("move", {"to": "e4"})
    await ann.request("move", {"to": "e5"})
    await until("both moves", lambda: len(heard) == 2 and len(reported) == 6)
    equal({type(error) for error in reported}, {ValueError, KeyError, asyncio.CancelledError}, "what was reported")
    equal((bob.state, [entry[1] for entry in heard]), ("open", [{"to": "e4"}, {"to": "e5"}]), "what bob hears")
    asyncio.get_running_loop().set_exception_handler(None)
    await asyncio.gather(ann.leave(), bob.leave())


async def a_cut_connection_loses_and_doubles_nothing(server):
    async with Network(server.port) as network:
        ann, bob = await join(network.url("cut"), token="ann"), await join(server.url("cut"), token="bob")
        ours, theirs = heard_by(ann, "n", "gap"), heard_by(bob, "n", "gap", "leave")
        requests = []
        for number in range(300):
            requests += [who.request("n", {"n": number}, timeout=SECONDS) for who in (ann, bob)]
            if number % 60 == 30:
                network.cut()
            await asyncio.sleep(0.002 if number % 60 == 30 else 0)
            while max(len(ann._kept), len(bob._kept)) > 50:
                await asyncio.sleep(0.01)
        acks = await asyncio.gather(*requests)
        await until("the last message", lambda: len(ours) >= 300 and len(theirs) >= 300)
        equal([entry[1]["n"] for entry in theirs], [*range(300)], "what bob hears")
        equal([entry[1]["n"] for entry in ours], [*range(300)], "what ann hears")
        assert network.opened >= 5 and all("seq" in ack or ack == {} for ack in acks), network.opened
        await asyncio.gather(ann.leave(), bob.leave())


async def a_program_that_is_restarted_comes_back_to_its_seat(server):
    bob = await join(server.url("restart"), token="bob")
    ann = await join(server.url("restart"), token="ann")
    await until("bob is told", lambda: bob.count == 2)
    heard, conn, session = heard_by(bob, "join", "leave"), ann.me.conn, ann.session
    await ann.leave(keep_seat=True)
    await bob.request("direct", {"to": "ann", "data": "while you were away"})
    ann = await join(server.url("restart"), token="ann", was=session)
    data, meta = await asyncio.wait_for(anext(aiter(ann)), SECONDS)
    equal((ann.me.conn, heard, data, meta.is_direct), (conn, [], "while you were away", True), "the seat")
    assert ann.session != session
    await asyncio.gather(ann.leave(), bob.leave())


async def a_silent_connection_is_given_up_and_the_seat_kept(server):
    """The server's pings are not answered either: its own connection is cut by the proxy, not by a close frame."""
    async with Network(server.port) as network:
        bob = await join(server.url("silent"), token="bob")
        ann = await join(network.url("silent"), token="ann", heartbeat=1)
        heard, states, conn = heard_by(bob, "leave"), heard_by(ann, "connection"), ann.me.conn
        network.passes.clear()
        # It may wait too briefly for its state to be seen.
        await until("the client notices", lambda: states)
        await bob.request("n", 1)
        message = await next_of(aiter(ann))
        network.passes.set()
        data, _ = await hears(message)
        equal((data, ann.me.conn, heard, states[0][2].code), ({"data": 1}, conn, [], 1006), "after the silence")
        await asyncio.gather(ann.leave(), bob.leave())


async def a_quiet_connection_is_kept(server):
    # An answer has half a second, which a busy machine may take.
    for attempt in attempts():
        ann = await join(server.url("quiet"), token="ann", heartbeat=1)
        states = heard_by(ann, "connection")
        # Several heartbeats.
        await asyncio.sleep(4)
        attempt.check(not states, f"changes of the connection: {states}, none")
        await ann.leave()


async def parts_of_a_large_message_on_a_slow_line_are_signs_of_life(server):
    async with Network(server.port) as network:
        bob = await join(server.url("slow"), token="bob")
        ann = await join(network.url("slow"), token="ann", heartbeat=1)
        heard, begun = heard_by(ann, "connection", "n"), time.monotonic()
        network.pause = 0.05
        await bob.request("n", "x" * 300_000)
        await until("the message arrives", lambda: heard)
        # Longer than the client waits for an answer to its ping.
        assert time.monotonic() - begun > 2, "it was not slow"
        equal([entry[0] for entry in heard], ["n"], "what has happened")
        network.pause = None
        await asyncio.gather(ann.leave(), bob.leave())


async def lists_of_an_address_that_can_never_work_are_refused(server):
    for start in Lobby.list, Lobby.find:
        with contextlib.suppress(LobbyError):
            await start("ftp://127.0.0.1/ws/~lobbies")
            raise AssertionError(f"{start.__name__}() is not refused")


async def numbers_of_thousands_of_digits_hide_no_message(server):
    lobby = await join(server.url("digits"), token="ann")
    heard, errors = heard_by(lobby, "n", "gap"), heard_by(lobby, "error")
    digits = "1" * 5_000
    # This server refuses what `json.dumps` does not write, so the client is given the messages of one that does not.
    assert lobby._say(f'{{"type":"n","n":{digits}}}'.encode())
    await until("the refusal", lambda: len(errors) == 1)
    equal(errors[0][1].code, "bad_message", "the answer")
    for number in digits, f"-{digits}", 2**64:
        lobby._receive(f'{{"type":"n","from":"bob","seq":{lobby.seq + 1},"n":{number}}}')
    await until("all messages", lambda: len(heard) == 3)
    equal([entry[1]["n"] for entry in heard], [float("inf"), -float("inf"), 2**64], "what is heard")
    await lobby.leave()


async def iterators_yield_each_message_once(server):
    ann, bob = await join(server.url("once"), token="ann"), await join(server.url("once"), token="bob")
    messages = aiter(bob)
    first = await next_of(messages)
    # Types that might be the name of an event of the client's own.
    types = ["any message", "_ANY", "None", "*", "last"]
    for name in types:
        await ann.request(name)
    heard = [await hears(first)]
    while heard[-1][1].type != "last":
        heard.append(await hears(anext(messages)))
    equal([meta.type for _, meta in heard], types, "what bob hears")
    await asyncio.gather(ann.leave(), bob.leave())


async def a_list_from_another_server_is_unavailable(_server):
    answers = [(b"200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body), 200) for body in (b"<html>", b"\xff", b"", b"[]", b"{}")]
    answers += [(b"200 OK\r\nContent-Length: 99\r\n\r\n{", 0), (b"two hundred\r\n\r\n", 0)]
    for answer, status in answers:
        async with Network(0) as network:
            network.first_answer = b"HTTP/1.1 " + answer
            try:
                raise AssertionError(await Lobby.find(network.url("~lobbies")))
            except LobbyError as error:
                equal((error.code, error.details), ("unavailable", {"status": status}), f"the error after {answer}")


async def a_token_function_that_raises_is_no_token(server):
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    failures = [KeyError("of the store"), OSError("of the network")]

    def token():
        if failures:
            raise failures.pop(0)
        return "ann"

    lobby = Lobby(server.url("tokens"), token=token).connect()
    states = heard_by(lobby, "connection")
    await lobby.ready
    await until("it is open", lambda: lobby.state == "open")
    asyncio.get_running_loop().set_exception_handler(None)
    waits = [entry[2] for entry in states if entry[1] == "waiting"]
    equal([(why.code, why.reason, type(why.error)) for why in waits], [(1006, "no_token", KeyError), (1006, "no_token", OSError)], "why it waited")
    equal([type(error) for error in reported], [KeyError, OSError], "what was reported")
    await lobby.leave()


async def a_full_connection_is_given_up(server):
    """Pings wait for room in the socket, and so does the close."""
    async with Network(server.port) as network:
        ann = await join(network.url("full"), token="ann", heartbeat=1)
        bob = await join(network.url("full"), token="bob", heartbeat=None)
        states = heard_by(ann, "connection")
        network.passes.clear()
        while ann.send("n", "x" * 1_000_000) | bob.send("n", "x" * 1_000_000):
            await asyncio.sleep(0)
        await until("the client notices", lambda: states)
        await asyncio.wait_for(bob.leave(), SECONDS)
        network.passes.set()
        await until("it is back", lambda: ann.state == "open")
        await ann.leave()


async def a_callback_may_leave(server):
    async with Network(server.port) as network:
        bob, ann = await join(server.url("callback"), token="bob"), await join(network.url("callback"), token="ann")
        heard = heard_by(ann, "leave", "connection")
        # Told with the state after a gap, so that the client is in the middle of a message.
        ann.on("data", lambda *_: ann.leave())
        network.passes.clear()
        network.cut()
        # Within the grace period of ann's seat.
        for number in range(0, 300, 60):
            await asyncio.gather(*(bob.request("n", n) for n in range(number, number + 60)))
        await bob.set({"round": 1})
        await bob.leave()
        network.passes.set()
        await until("ann leaves", lambda: heard and heard[-1][:2] == ("connection", "closed"))
        await asyncio.sleep(0.2)
        assert ("leave", "bob", "unknown") in heard, heard
        equal((ann.state, ann._link, heard[-1][1]), ("closed", None, "closed"), "after a callback has left")
        lobby = Lobby(network.url("callback"), token="ann")
        lobby.on("connection", lambda *_: lobby.leave())
        tasks, opened = asyncio.all_tasks(), network.opened
        lobby.connect()
        await until("no task is left", lambda: asyncio.all_tasks() - tasks == set())
        equal((lobby.state, network.opened), ("closed", opened), "a lobby that is left at once")


async def a_request_on_a_closing_connection_gets_no_number(server):
    async with Network(server.port) as network:
        ann = await join(network.url("closing"), token="ann")
        # As between the close frames and the end of the connection.
        ann._link.is_open = lambda: False
        request = ann.request("n", 1)
        equal((ann._ref, ann.send("n", 2)), (0, False), "the last number, and whether a volatile message is sent")
        network.cut()
        assert "seq" in await request and ann._ref == 1
        await ann.leave()


async def a_blocked_event_loop_ends_no_connection(server):
    async with Network(server.port) as network:
        ann = await join(network.url("block"), token="ann", heartbeat=3)
        states = heard_by(ann, "connection")
        await until("the ping after the welcome is answered", lambda: ann.latency is not None)
        for _ in range(2):
            network.answers_pass.clear()
            before = network.bytes_to_server
            request = ann.request("n", 1, timeout=5)
            await until("the request is sent", lambda: network.bytes_to_server > before)
            before = network.bytes_to_server
            await until("a ping is sent", lambda: "probe" in ann._timers and network.bytes_to_server > before)
            # Both are answered meanwhile. The client reads that only after their times, which are over.
            network.answers_pass.set()
            time.sleep(4)
            await request
        equal(states, [], "what has happened")
        await ann.leave()


async def retry_after_of_a_refused_upgrade_is_respected(server):
    async with Network(server.port) as network:
        network.first_answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        lobby = Lobby(network.url("busy"), token="ann").connect()
        states = heard_by(lobby, "connection")
        begun = time.monotonic()
        await lobby.ready
        assert time.monotonic() - begun >= 1 and states[0][1] == "waiting" and "503" in str(states[0][2].error), states
        await until("it is open", lambda: lobby.state == "open")
        # A refused attempt cannot have replaced the connection, so there is a newer login.
        newer = await join(server.url("busy"), token="ann")
        await until("it is replaced", lambda: lobby.state == "closed")
        equal([entry[1] for entry in states], ["waiting", "connecting", "open", "closed"], "the states until a newer login")
        await newer.leave()


async def join_can_be_cancelled_and_misses_no_event(server):
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    before = asyncio.all_tasks()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(join(f"ws://127.0.0.1:{port}/ws/chess", token="ann"), 0.2)
        raise AssertionError("it joined")
    await until("no task is left", lambda: asyncio.all_tasks() - before == set())
    silent.close()
    bob, ann = await join(server.url("early"), token="bob"), await join(server.url("early"), token="ann")
    for number in range(10):
        await ann.leave(keep_seat=True)
        # It arrives before the list.
        await bob.request("direct", {"to": "ann", "data": number})
        joining = asyncio.wait_for(join(server.url("early"), token="ann", was=ann.session), SECONDS)
        [ann] = await asyncio.gather(joining)
        heard = heard_by(ann, "direct")
        await until("it is heard", lambda: heard)
        equal([entry[1] for entry in heard], [number], "what ann hears")
    await ann.leave()
    with contextlib.suppress(LobbyError):
        await join(server.url("chess").replace("/ws/", "/elsewhere/"), token="ann")
        raise AssertionError("it joined")
    await bob.leave()


async def iterators_end(server):
    refused = Lobby(server.url("chess").replace("/ws/", "/elsewhere/"), token="ann").connect()
    try:
        raise AssertionError([entry async for entry in refused])
    except LobbyError as error:
        equal(error.code, "bad_lobby_code", "why an iterator of a lobby that refuses ends")
    ann, bob = await join(server.url("iterate"), token="ann"), await join(server.url("iterate"), token="bob")
    received = []
    bob.on("n", lambda *_: received.append(1))
    lazy = aiter(bob)
    first = await next_of(lazy)
    for number in range(1100):
        ann.send("n", number)
        if number % 50 == 0:
            await ann.request("ping-pong")
    equal((await first)[0], {"data": 0}, "the first message")
    await until("bob has received all", lambda: len(received) == 1100)
    try:
        while True:
            await anext(lazy)
    except LobbyError as error:
        equal(error.code, "overflow", "the error")
    ended = asyncio.ensure_future(anext(aiter(bob), "the end"))
    await asyncio.sleep(0)
    await bob.leave()
    equal(await hears(ended), "the end", "the iterator")
    await ann.leave()


async def volatile_messages_are_dropped_when_nothing_is_read(server):
    async with Network(server.port) as network:
        ann = await join(network.url("flood"), token="ann", heartbeat=None)
        network.passes.clear()
        sent = 0
        for _ in range(1_000):
            sent += ann.send("n", "x" * 100_000)
            await asyncio.sleep(0)
            if not ann.send("n", ""):
                break
        assert sent < 1_000 and ann._link.unsent_bytes < 300_000, (sent, ann._link.unsent_bytes)
        network.passes.set()
        await until("it is sent", lambda: ann.send("n", ""))
        await ann.leave()


async def a_program_that_is_too_fast_is_slowed_down_and_not_closed(server):
    # So slow that a busy machine is too fast for it, too.
    with Lobbyd(server.binary, "--messages-per-second", 20, "--message-burst", 20) as slow:
        ann = await join(slow.url("fast"), token="ann")
        heard = heard_by(ann, "connection", "error")
        for _ in range(2):
            await asyncio.gather(*(ann.request("n", timeout=SECONDS) for _ in range(60)))
        assert ann._ref > 120, "no request was refused"
        sent, until_then = 0, time.monotonic() + 3
        while time.monotonic() < until_then or sent < 40:
            assert time.monotonic() < until_then + SECONDS, f"only {sent} messages are sent"
            # As in the frames of a fast display, several of them in a slow turn.
            sent += sum(ann.send("n") for _ in range(4))
            await asyncio.sleep(0.01)
        await ann.request("n", timeout=SECONDS)
        equal([entry for entry in heard if entry[0] == "connection"], [], "what happened to the connection")
        await ann.leave()


async def wss_checks_the_certificate(server):
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(os.path.join(CERTIFICATES, "first.pem"), os.path.join(CERTIFICATES, "first.key"))
    trusting = ssl.create_default_context(cafile=os.path.join(CERTIFICATES, "ca.pem"))
    async with Network(server.port, tls) as network:
        async with Lobby(network.url("tls"), token="ann", ssl=trusting) as ann:
            await ann.configure({"listed": True})
            found = await Lobby.find(network.url("~lobbies"), ssl=trusting)
            assert found["lobbies"], found
        stranger = Lobby(network.url("tls"), token="bob").connect()
        states = heard_by(stranger, "connection")
        await until("the attempt fails", lambda: states)
        assert isinstance(states[0][2].error, ssl.SSLCertVerificationError), states
        await stranger.leave()


async def compression_is_the_users_choice(server):
    seen = []

    class Watched(Lobby):
        async def _connect(self, url, **options):
            ws = await super()._connect(url, **options)
            seen.append(ws.request.headers.get("Sec-WebSocket-Extensions"))
            return ws

    for options in {}, {"compression": "deflate"}:
        async with Watched(server.url("deflate"), token="ann", **options) as ann:
            await ann.request("n", "x" * 1000)
    equal([offer and offer.split(";")[0] for offer in seen], [None, "permessage-deflate"], "the offers")


async def many_lobbies_are_cheap(server, members):
    rounds, tasks = 10, asyncio.all_tasks()
    for attempt in attempts():
        before, begun = resident_bytes(), time.monotonic()
        lobbies = await asyncio.gather(*(join(server.url(f"many-{n // 10}"), token=f"user-{n}") for n in range(members)))
        memory = (resident_bytes() - before) / members
        heard = [heard_by(lobby, "n") for lobby in lobbies]
        print(f"{members} lobbies joined in {time.monotonic() - begun:.2f} s, {memory:.0f} bytes each")
        processor = time.process_time()
        for number in range(rounds):
            await asyncio.gather(*(lobby.request("n", {"n": number}, timeout=SECONDS) for lobby in lobbies))
        await until("all is heard", lambda: all(len(entries) >= rounds * 9 for entries in heard))
        each = (time.process_time() - processor) / (members * rounds * 10)
        processor = time.process_time()
        await asyncio.sleep(3)
        idle = time.process_time() - processor
        assert all(sorted(entry[1]["n"] for entry in entries) == sorted([*range(rounds)] * 9) for entries in heard)
        print(f"{each * 1e6:.1f} µs of processor time for each message that is sent or heard, {idle:.3f} s in 3 idle seconds")
        await asyncio.gather(*(lobby.leave() for lobby in lobbies))
        await until("no task is left", lambda: asyncio.all_tasks() - tasks == set())
        attempt.check(memory < MAX_BYTES_PER_LOBBY, f"{memory:.0f} bytes for a lobby, below {MAX_BYTES_PER_LOBBY}")
        attempt.check(idle < MAX_IDLE_SECONDS, f"{idle:.3f} s in 3 idle seconds, below {MAX_IDLE_SECONDS}")
        attempt.check(each * 1e6 < MAX_MICROSECONDS, f"{each * 1e6:.1f} µs for a message, below {MAX_MICROSECONDS}")


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def the_bot_of_the_guide_answers(server):
    with open(GUIDE, encoding="utf-8") as file:
        [bot] = re.findall(r"```python\n(.*?)```", file.read(), re.S)
    equal(bot.count("ws://127.0.0.1:9001"), 1, "addresses in the bot")
    bot = bot.replace("127.0.0.1:9001", f"127.0.0.1:{server.port}").replace("from lobbyd import", "from lobby import")
    ann = await join(server.url("chat"), token="ann")
    heard = heard_by(ann, "chat", "leave")
    process = await asyncio.create_subprocess_exec(sys.executable, "-B", "-c", bot, env=os.environ | {"PYTHONPATH": CLIENT})
    try:
        await until("the bot joins", lambda: ann.count == 2)
        for text in "!who", "nothing for a bot", "!roll":
            await ann.request("chat", text)
        # The bot greets at once, and answers one message after the other.
        await until("two answers", lambda: len(heard) == 2)
        bob = await join(server.url("chat"), token="bob")
        await until("three answers", lambda: len(heard) == 3)
        texts = [entry[1]["data"] for entry in heard]
        assert "ann" in texts[0] and re.search(r"ann.* [1-6]\b", texts[1]) and "bob" in texts[2], texts
        assert process.returncode is None
        await asyncio.gather(ann.leave(), bob.leave())
    finally:
        process.kill()
        await process.wait()


CLAIMS = [members_talk, lobby_control_and_lists, callbacks_that_fail_are_reported, a_callback_may_leave, a_cut_connection_loses_and_doubles_nothing,
          a_program_that_is_restarted_comes_back_to_its_seat, a_silent_connection_is_given_up_and_the_seat_kept, a_full_connection_is_given_up,
          a_quiet_connection_is_kept, parts_of_a_large_message_on_a_slow_line_are_signs_of_life,
          lists_of_an_address_that_can_never_work_are_refused, a_list_from_another_server_is_unavailable,
          numbers_of_thousands_of_digits_hide_no_message, iterators_yield_each_message_once, a_token_function_that_raises_is_no_token,
          a_request_on_a_closing_connection_gets_no_number, a_blocked_event_loop_ends_no_connection,
          retry_after_of_a_refused_upgrade_is_respected, join_can_be_cancelled_and_misses_no_event, iterators_end, volatile_messages_are_dropped_when_nothing_is_read,
          a_program_that_is_too_fast_is_slowed_down_and_not_closed, wss_checks_the_certificate, compression_is_the_users_choice,
          the_bot_of_the_guide_answers]


def run(*command, **more):
    """Returns the error of a command, "" if it succeeds."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **more)
    return "" if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}"


def the_package():
    """It installs, and has types."""
    with tempfile.TemporaryDirectory(prefix="package-") as folder:
        installed = os.path.join(folder, "installed")
        # The backend of the build is one of the pinned packages.
        yield "the package installs", run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                                          "--no-build-isolation", "--target", installed, CLIENT)
        paths = os.environ | {"PYTHONPATH": installed, "MYPYPATH": installed}
        yield "it imports", run(sys.executable, "-c", "from lobbyd import Lobby, join", cwd=folder, env=paths)
        with open(os.path.join(folder, "use.py"), "w", encoding="utf-8") as file:
            file.write(USE)
        mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.path.join(folder, "cache")]
        yield "a program type-checks under --strict", run(*mypy, "use.py", cwd=folder, env=paths)
    with tempfile.TemporaryDirectory(prefix="types-") as folder:
        yield "the client type-checks under --strict", run(*mypy[:4], "--cache-dir", folder, "--python-version", "3.10", "lobby.py", cwd=CLIENT)


def the_vectors():
    done = subprocess.run([sys.executable, "-B", os.path.join(HERE, "vectors.py")], stdout=subprocess.PIPE, text=True, check=False)
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    for report in reports:
        skipped = f" (skipped: {report['skipped']})" if "skipped" in report else ""
        yield report["name"] + skipped, report["error"]
    yield "vectors.py runs to its end", "" if done.returncode == 0 and reports else f"exit code {done.returncode}"


async def main(options):
    tally = Tally()
    for name, error in [*the_package(), *the_vectors()]:
        tally.count(name, error)
    with Lobbyd(options.lobbyd, *SERVER_ARGS) as server:
        server.binary = options.lobbyd
        claims = [(claim.__name__, claim(server)) for claim in CLAIMS]
        claims.append((many_lobbies_are_cheap.__name__, many_lobbies_are_cheap(server, options.members)))
        for name, claim in claims:
            await tally.check(name, claim, 4 * SECONDS)
    return tally.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=300)
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    sys.exit(asyncio.run(main(parser.parse_args())))
