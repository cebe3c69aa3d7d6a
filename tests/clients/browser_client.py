#!/usr/bin/env python3
"""The browser client src/client/browser: its size and package, the conformance vectors, and pages in Chromium against a real server.

    tests/clients/run --browser-client [--seconds 300] [--seed N] [path/to/lobbyd]

`--seconds` is the time that pages spend behind a proxy that cuts their connections, and `--seed` repeats its faults. Prints a line per claim; exit 0 if all hold.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from attempts import attempts
from browser import HERE
from lobbyd import Lobbyd, default_binary
from session_pages import ONLINE, Pages
from suite import Tally

CLIENT = os.path.normpath(os.path.join(HERE, "../../src/client/browser"))
SERVER_ARGS = ["--messages-per-second", "unlimited"]
# Fast enough for a test of dead connections, which are closed after about two seconds. On a busy machine others may be closed, too.
FAST_PINGS = ["--ping-interval", "1s", "--pong-timeout", "500ms"]
# Seconds after which a stream is so stable that the client tries a WebSocket once, when the stream is lost.
STABLE = 5
HEAP_GROWTH, RECONNECTS, READINGS = 200_000, 200, 8
# Limits of what must happen at all. They cost nothing while it holds: a busy machine may need most of them.
SECONDS, PAGE_SECONDS = 60, 400


class Tab:
    """A page that shows client_page.html."""

    def __init__(self, pages, session):
        self.pages, self.session = pages, session

    @classmethod
    async def open(cls, pages, port, query=""):
        url = f"{pages.origin}/client_page.html?port={port}{query}"
        target = await pages.tools.call("Target.createTarget", url=url)
        return await cls.attach(pages, target["targetId"])

    @classmethod
    async def attach(cls, pages, target):
        attached = await pages.tools.call("Target.attachToTarget", targetId=target, flatten=True)
        tab = cls(pages, attached["sessionId"])
        for domain in "Page", "Network":
            await tab.call(f"{domain}.enable")
        await tab.until("globalThis.isReady")
        return tab

    async def call(self, method, **params):
        return await self.pages.tools.call(method, self.session, **params)

    async def evaluate(self, expression, **params):
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, **params)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, expression):
        end, why = time.monotonic() + SECONDS, ""
        while time.monotonic() < end:
            # A page that is being loaded answers with an error.
            try:
                if await self.evaluate(expression):
                    return
            except AssertionError as problem:
                why = problem
            await asyncio.sleep(0.05)
        heard = await self.evaluate("globalThis.page?.heard()")
        raise AssertionError(f"not within {SECONDS} s: {expression}; heard: {heard} {why}")

    async def join(self, user, lobby):
        return await self.evaluate(f"page.open('{user}', '{lobby}')")

    async def say(self, *texts):
        for text in texts:
            await self.evaluate(f"page.say('{text}')")

    async def reload(self):
        await self.evaluate("globalThis.isReady = false")
        await self.call("Page.reload")
        await self.until("globalThis.isReady")

    async def freeze(self, seconds):
        await self.call("Page.setWebLifecycleState", state="frozen")
        await asyncio.sleep(seconds)
        await self.call("Page.setWebLifecycleState", state="active")


def equal(got, wanted, what):
    assert got == wanted, f"{what}: {got} instead of {wanted}"


async def frozen_page_misses_nothing(pages, server):
    ann, bob = await pair(pages, server, "frozen")
    conn = await bob.evaluate("page.conn()")
    freeze = asyncio.create_task(bob.freeze(5))
    await asyncio.sleep(1)
    await ann.say("one", "two", "three")
    await freeze
    await bob.until("page.messages().includes('ann three')")
    equal(await bob.evaluate("page.messages()"), ["ann one", "ann two", "ann three"], "messages")
    await bob.say("back")
    await ann.until("page.messages().includes('bob back')")
    equal(await bob.evaluate("page.conn()"), conn, "the seat")
    assert "gap" not in await bob.evaluate("page.heard()")


async def offline_page_misses_nothing(pages, server):
    ann, bob = await pair(pages, server, "offline")
    await bob.call("Network.emulateNetworkConditions", **ONLINE | {"offline": True})
    bob_says = asyncio.create_task(bob.say("from the tunnel"))
    await asyncio.sleep(4)
    await ann.say("one", "two")
    await bob.call("Network.emulateNetworkConditions", **ONLINE)
    await bob.until("page.messages().includes('ann two')")
    equal(await bob.evaluate("page.messages()"), ["ann one", "ann two"], "messages")
    await bob_says
    await ann.until("page.messages().includes('bob from the tunnel')")
    equal((await ann.evaluate("page.messages()")).count("bob from the tunnel"), 1, "times")


async def reload_comes_back_to_its_seat(pages, server):
    ann, bob = await pair(pages, server, "reload")
    conn = await bob.evaluate("page.conn()")
    for _ in range(2):
        await bob.reload()
        equal(await bob.join("bob", "reload"), conn, "the seat")
    await bob.say("here")
    await ann.until("page.messages().includes('bob here')")
    told = [text for text in await ann.evaluate("page.heard()") if text.startswith(("join", "leave"))]
    equal(told, ["join bob"], "joins and leaves")


async def duplicated_tab_does_not_take_the_seat(pages, server):
    bob = await Tab.open(pages, server.port)
    conn = await bob.join("cy", "tabs")
    # A reload first, so that the tab has had something in its storage.
    await bob.reload()
    equal(await bob.join("cy", "tabs"), conn, "the seat after a reload")
    before = {target["targetId"] for target in (await pages.tools.call("Target.getTargets"))["targetInfos"]}
    # A window that a page opens gets a copy of its session storage, as a duplicated tab does.
    await bob.evaluate("!!window.open(location.href)", userGesture=True)
    opened = []
    async with asyncio.timeout(SECONDS):
        while not opened:
            await asyncio.sleep(0.05)
            targets = (await pages.tools.call("Target.getTargets"))["targetInfos"]
            opened = [target["targetId"] for target in targets if target["targetId"] not in before and target["type"] == "page"]
    [target] = opened
    copy = await Tab.attach(pages, target)
    assert await copy.join("cy", "tabs") != conn, "the copy has the seat"
    await bob.until("page.state() === 'open'")
    equal(await bob.evaluate("page.conn()"), conn, "the seat of the first tab")


async def heap_does_not_grow(pages, server):
    tab = await Tab.open(pages, server.port)
    await tab.join("ann", "heap")
    await reconnect(tab, 20)

    async def lowest():
        """A single reading varies: code is compiled and thrown away again. What is kept for ever is in each of several."""
        readings = []
        for _ in range(READINGS):
            await reconnect(tab, 5)
            await tab.call("HeapProfiler.collectGarbage")
            readings.append((await tab.call("Runtime.getHeapUsage"))["usedSize"])
        return min(readings)

    for attempt in attempts():
        before = await lowest()
        await reconnect(tab, RECONNECTS)
        growth = await lowest() - before
        print(f"heap growth after {RECONNECTS} reconnects: {growth} bytes")
        attempt.check(growth < HEAP_GROWTH, f"{growth} bytes")


async def reconnect(tab, times):
    """In several calls: a call to Chromium has a limit."""
    while times > 0:
        await tab.evaluate(f"page.reconnect({min(times, 10)})")
        times -= 10


class RefusingProxy:
    """A TCP proxy on 127.0.0.1 that answers upgrades with 403, as some networks do, and can cut all its connections."""

    def __init__(self, port):
        self.server_port, self.writers, self.refused = port, set(), 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        self.cut()

    def cut(self):
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"\r\nupgrade:" in head.lower():
                self.refused += 1
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                writer.close()
                return
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.server_port)
            self.writers |= {writer, upstream}
            upstream.write(head)
            await asyncio.gather(pipe(reader, upstream), pipe(upstream_reader, writer))
            self.writers -= {writer, upstream}


async def pipe(reader, writer):
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def event_streams_replace_refused_upgrades(pages, server):
    async with RefusingProxy(server.port) as proxy:
        ann, bob = await Tab.open(pages, server.port), await Tab.open(pages, proxy.port)
        await ann.join("ann", "streams")
        since, stable = time.monotonic(), 0
        conn = await bob.join("bob", "streams")
        assert proxy.refused == 2, f"{proxy.refused} upgrades"
        await ann.evaluate("page.set({ round: 1 })")
        await bob.until("page.data().round === 1")
        for round_ in range(3):
            await ann.say(f"a{round_}")
            await bob.say(f"b{round_}")
            asked = asyncio.create_task(bob.say(f"c{round_}"))
            await asyncio.sleep(0.01 * round_)
            proxy.cut()
            stable += time.monotonic() - since > STABLE
            since = time.monotonic()
            await ann.say(f"d{round_}")
            await asked
            await bob.until("page.state() == 'open'")
        await bob.until("page.messages().includes('ann d2')")
        await ann.until("page.messages().includes('bob c2')")
        equal(await bob.evaluate("page.messages()"), [f"ann {kind}{n}" for n in range(3) for kind in "ad"], "what bob hears")
        equal(await ann.evaluate("page.messages()"), [f"bob {kind}{n}" for n in range(3) for kind in "bc"], "what ann hears")
        assert "gap" not in await bob.evaluate("page.heard()")
        equal(await bob.evaluate("page.conn()"), conn, "the seat")
        assert 2 <= proxy.refused <= 2 + stable, f"{proxy.refused} upgrades after {stable} stable streams"
        await bob.evaluate("page.leave()")
        await ann.until("page.heard().includes('leave bob')")


async def pair(pages, server, lobby):
    ann, bob = await Tab.open(pages, server.port), await Tab.open(pages, server.port)
    await ann.join("ann", lobby)
    await bob.join("bob", lobby)
    return ann, bob


async def in_chromium(binary):
    """Yields pairs of a claim's name and its error, "" if it holds."""
    async with Pages() as pages:
        with Lobbyd(binary, *SERVER_ARGS) as server, Lobbyd(binary, *SERVER_ARGS, *FAST_PINGS) as pinging, \
                Lobbyd(binary, *SERVER_ARGS, "--duplicate-login", "allow", "--max-per-user", 2) as tolerant, \
                Lobbyd(binary, *SERVER_ARGS, "--lobby-control", "on", "--max-message-bytes", "128KiB",
                       "--bytes-per-second", "unlimited") as control:
            address = f"{pages.origin}/client_page.html?port={server.port}&control={control.port}&claims=all"
            await pages.tools.call("Target.createTarget", url=address)
            try:
                async with asyncio.timeout(PAGE_SECONDS):
                    while (report := json.loads(await pages.server.stdout.readline())) != {"done": True}:
                        yield report["name"], report["error"]
            except TimeoutError:
                yield "the page ran to its end", f"not within {PAGE_SECONDS} s"
            for claim, its_server in [(frozen_page_misses_nothing, pinging), (offline_page_misses_nothing, pinging),
                                      (reload_comes_back_to_its_seat, tolerant), (duplicated_tab_does_not_take_the_seat, tolerant),
                                      (event_streams_replace_refused_upgrades, control), (heap_does_not_grow, server)]:
                try:
                    await claim(pages, its_server)
                    yield claim.__name__, ""
                except Exception as error:
                    yield claim.__name__, str(error) if isinstance(error, AssertionError) and str(error) else repr(error)


def run(*command, **more):
    """Returns the error of a command, "" if it succeeds; prints its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **more)
    return "" if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}"


def in_node(binary):
    """The package in a folder of its own: it installs, imports, type-checks, and renders in React."""
    modules = os.environ["NODE_PATH"]
    with tempfile.TemporaryDirectory(prefix="package-", dir=os.path.dirname(modules)) as folder:
        yield "npm pack", run("npm", "pack", "--silent", "--pack-destination", folder, cwd=CLIENT)
        [package] = [name for name in os.listdir(folder) if name.endswith(".tgz")]
        with open(os.path.join(folder, "package.json"), "w", encoding="utf-8") as file:
            json.dump({"private": True, "type": "module"}, file)
        yield "the package installs", run("npm", "install", "--offline", "--no-audit", "--no-fund", "--legacy-peer-deps", package, cwd=folder)
        for name in "client_types.ts", "client_node.mjs":
            shutil.copy(os.path.join(HERE, name), folder)
        yield "it type-checks under --strict", run(
            os.path.join(modules, ".bin/tsc"), "--strict", "--noEmit", "--module", "nodenext", "--target", "es2023",
            "--lib", "es2023,esnext.disposable,dom", "client_types.ts", cwd=folder)
        with Lobbyd(binary, *SERVER_ARGS, "--lobby-control", "on") as server:
            yield from reports("node", "client_node.mjs", str(server.port), cwd=folder)
    yield from reports("node", os.path.join(HERE, "vectors.mjs"))


def reports(*command, **more):
    """Yields what a program reports, one JSON object a line, and whether it succeeded."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=PAGE_SECONDS, **more)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for report in lines:
        yield report["name"], report["error"]
    yield f"{os.path.basename(command[1])} runs to its end", "" if done.returncode == 0 and lines else done.stderr[-2000:]


async def main(options):
    tally = Tally()
    tally.count("sizes", run(os.path.join(HERE, "client_size")))
    for name, error in in_node(options.lobbyd):
        tally.count(name, error)
    async for name, error in in_chromium(options.lobbyd):
        tally.count(name, error)
    if options.seconds:
        tally.count(f"pages behind a proxy that cuts their connections, for {options.seconds:g} s", run(
            sys.executable, "-B", os.path.join(HERE, "sessions.py"), "--seconds", str(options.seconds), "--members", "10",
            "--pages", "8", *(["--seed", options.seed] if options.seed else []), options.lobbyd))
    return tally.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", help="default: another one each time")
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    sys.exit(asyncio.run(main(parser.parse_args())))
