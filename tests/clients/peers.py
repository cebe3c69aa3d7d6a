"""One interface to the WebSocket libraries under test: Python's `websockets` and npm's `ws`.

The npm library runs in a node process (`npm_client.js`), which takes commands and reports events as lines of JSON.
"""

import asyncio
import base64
import json
import os
from dataclasses import dataclass

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

TIMEOUT = 60       # seconds; limit for events that should be immediate, on a busy machine


@dataclass
class Closed:
    code: int
    reason: str


class Client:
    """A test's connection. A failed expectation reports the frame that was received instead."""

    user = "?"
    welcome = None      # set by suite.enter()
    presence = None

    async def next(self, seconds=TIMEOUT):
        """Returns the next frame of the application: str, bytes or Closed."""
        return await asyncio.wait_for(self._next(), seconds)

    async def expect(self, kind, **fields):
        """Returns the next frame, which must be a JSON object of that type with at least these fields."""
        try:
            frame = await self.next()
        except asyncio.TimeoutError:
            raise AssertionError(f"{self.user} waited {TIMEOUT} s for {kind} {fields}") from None
        assert isinstance(frame, str), f"{self.user} expected {kind}, got {shorten(frame)}"
        message = json.loads(frame)
        assert message.get("type") == kind, f"{self.user} expected {kind}, got {shorten(frame)}"
        for name, value in fields.items():
            got = message.get(name)
            assert got == value and type(got) is type(value), \
                f"{self.user}: {kind}.{name} should be {shorten(value)}, is {shorten(got)}"
        return message

    async def expect_binary(self, value):
        frame = await self.next()
        assert frame == value, f"{self.user} expected {len(value)} bytes, got {shorten(frame)}"

    async def expect_goodbye(self, code, reason=None):
        """Expects `goodbye` and then a close frame with the same code and reason."""
        goodbye = await self.expect("goodbye", code=code)
        assert isinstance(goodbye["reconnect"], bool), goodbye
        end = await self.next()
        assert isinstance(end, Closed), f"{self.user} expected the close, got {shorten(end)}"
        assert end.code == code, f"closed with {end}, expected {code}"
        assert end.reason == goodbye["reason"], f"closed with {end} after {goodbye}"
        assert reason is None or end.reason == reason, f"closed with {end}, expected {reason}"
        return goodbye

    async def expect_quiet(self):
        """Expects that the server has sent nothing: the next frame is the answer to a question."""
        await self.say("ping", ref="quiet")
        await self.expect("pong", ref="quiet")

    async def say(self, kind, **fields):
        await self.send(json.dumps({"type": kind, **fields}, ensure_ascii=False))


class PythonClient(Client):
    def __init__(self, socket):
        self._socket = socket

    async def _next(self):
        try:
            return await self._socket.recv()
        except ConnectionClosed as end:
            return Closed(end.rcvd.code, end.rcvd.reason) if end.rcvd else Closed(1006, "")

    async def send(self, frame):
        await self._socket.send(frame)

    async def ping(self, payload):
        await asyncio.wait_for(await self._socket.ping(payload), TIMEOUT)

    async def close(self):
        await self._socket.close()

    async def drop(self):
        """Ends the connection without a close frame."""
        self._socket.transport.abort()

    async def pause(self):
        """Stops reading until `resume`. Does nothing here: the library stops reading when its queue is full."""

    async def resume(self):
        pass


class Python:
    name = "websockets"

    async def open(self, url, **options):
        return PythonClient(await connect(url, max_size=None, proxy=None, **options))

    async def stop(self):
        pass


class NodeClient(Client):
    def __init__(self, process, number):
        self._process = process
        self._number = number
        self.frames = asyncio.Queue()
        self.pongs = asyncio.Queue()
        self.opened = asyncio.get_running_loop().create_future()

    async def command(self, action, **more):
        line = json.dumps({"id": self._number, "do": action, **more})
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    def report(self, event):
        match event["on"]:
            case "open":
                # After a timeout nobody waits for it.
                if not self.opened.done():
                    self.opened.set_result(event["protocol"])
            case "text":
                self.frames.put_nowait(event["data"])
            case "binary":
                self.frames.put_nowait(base64.b64decode(event["data"]))
            case "pong":
                self.pongs.put_nowait(base64.b64decode(event["data"]))
            case "close":
                self.frames.put_nowait(Closed(event["code"], event["reason"]))
            case "error" if not self.opened.done():
                self.opened.set_exception(ConnectionError(event["message"]))

    async def _next(self):
        return await self.frames.get()

    async def send(self, frame):
        if isinstance(frame, str):
            await self.command("text", data=frame)
        else:
            await self.command("binary", data=base64.b64encode(frame).decode())

    async def ping(self, payload):
        await self.command("ping", data=base64.b64encode(payload).decode())
        pong = await asyncio.wait_for(self.pongs.get(), TIMEOUT)
        assert pong == payload, f"pong carries {pong!r}, the ping {payload!r}"

    async def close(self):
        await self.command("close")

    async def drop(self):
        await self.command("terminate")

    async def pause(self):
        await self.command("pause")

    async def resume(self):
        await self.command("resume")


class Node:
    name = "ws"

    def __init__(self):
        self._process = None
        self._starting = asyncio.Lock()
        self._clients = {}

    async def open(self, url):
        async with self._starting:
            if self._process is None:
                program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "npm_client.js")
                self._process = await asyncio.create_subprocess_exec(
                    "node", program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24)
                self._reader = asyncio.create_task(self._read())
        client = NodeClient(self._process, len(self._clients))
        self._clients[client._number] = client
        await client.command("open", url=url)
        await asyncio.wait_for(client.opened, TIMEOUT)
        return client

    async def _read(self):
        while line := await self._process.stdout.readline():
            event = json.loads(line)
            self._clients[event["id"]].report(event)

    async def stop(self):
        if self._process is not None:
            self._process.stdin.close()     # the program exits at the end of its input
            await self._process.wait()
            await self._reader


def shorten(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"
