#!/usr/bin/env python3
"""The client for Godot, src/client/godot: its syntax, the conformance vectors, and games in the official web build.

    tests/clients/run --godot-client [--only NAME] [path/to/lobbyd]

The games run in headless Chromium against a real server, with lobby.js as another member and with connections that are cut. Prints
a line per claim; exit 0 if all hold.
"""

import argparse
import asyncio
import glob
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request

from browser import HERE
from faulty_proxy import Proxy
from godot_game import CLIENT, GAME_SECONDS, ROOT, game, read, script, show
from lobbyd import Lobbyd, default_binary
from suite import Tally
from tabs import SECONDS, Browser

SERVER = ["--messages-per-second", "unlimited", "--bytes-per-second", "unlimited", "--attempts-per-minute", "unlimited", "--admin", "127.0.0.1:0"]
# Fast enough for a test of dead connections, which are closed after about two seconds. On a busy machine others may be closed, too.
FAST_PINGS = ["--ping-interval", "1s", "--pong-timeout", "500ms"]
# The cuts of the proxy take seconds: a loaded machine has sent more than the default number of frames by then.
HISTORY = ["--history-frames", "4096", "--history-bytes", "1MiB", "--max-outbound-bytes", "4MiB"]
PROXY_SECONDS, PROXY_MEAN, PROXY_SEED = 15, 1.0, 7
CLAIM_SECONDS = 300


def equal(got, wanted, what):
    assert got == wanted, f"{what}: {got} instead of {wanted}"


def guide_code():
    """The example of the guide."""
    with open(os.path.join(ROOT, "src/guide/clients.md"), encoding="utf-8") as guide:
        [code] = [part.split("\n```")[0] for part in guide.read().split("\n```gdscript\n")[1:]]
    return code


def syntax():
    """Yields pairs of a file's name and what is wrong with it."""
    tools = os.path.dirname(sys.executable)
    files = [*glob.glob(os.path.join(CLIENT, "*.gd")), *glob.glob(os.path.join(HERE, "godot/*.gd"))]
    with tempfile.TemporaryDirectory() as folder:
        example = os.path.join(folder, "example_of_the_guide.gd")
        with open(example, "w", encoding="utf-8") as file:
            file.write(guide_code() + "\n")
        for tool, file in itertools.product(["gdparse", "gdlint"], [*files, example]):
            done = subprocess.run([os.path.join(tools, tool), file], cwd=os.path.join(HERE, "godot"), text=True, check=False,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            yield f"{tool} {os.path.basename(file)}", "" if done.returncode == 0 else done.stdout


async def reported(browser, main, **files):
    """Yields what a game reports, pairs of a claim and its error; transcripts that are skipped are printed."""
    async with show(browser, game(script(main), **files)) as playing:
        reports = await playing.until("done")
        for report in reports:
            if "skipped" in report:
                print(f"skip {report['name']}: {report['skipped']}")
            else:
                yield report["name"], report["error"]
        yield f"{main} has run something", "" if reports else "no reports"


class Page:
    """A game whose members the test commands, and members of lobby.js in the same page."""

    def __init__(self, playing, server):
        self.game, self.server = playing, server

    def url(self, lobby, port=None, query=""):
        return f"ws://127.0.0.1:{port or self.server.port}/ws/{lobby}{query}"

    async def joins(self, user, lobby, port=None, query="", is_later=False):
        result = await self.game.do("join", user, self.url(lobby, port, query), is_later)
        assert result["ok"], result

    async def browser_joins(self, user, lobby):
        """A member of lobby.js, whose messages are noted."""
        return await self.game.tab.evaluate(f"""(async () => {{
            const lobby = globalThis.{user} = await joinWithBrowser({json.dumps(self.url(lobby))}, {{ token: "{user}" }});
            lobby.heard = [];
            lobby.ask = (type, payload) => lobby.request(type, payload, {{ timeout: 60_000 }});
            for (const name of ["join", "leave", "away", "back"]) lobby.on(name, ({{ user }}, why) => lobby.heard.push([name, user, ...(why ? [why] : [])]));
            for (const name of ["count", "chat", "large", "move"]) lobby.on(name, (data) => lobby.heard.push([name, data]));
            lobby.on("binary", (data) => lobby.heard.push(["binary", data.byteLength]));
            lobby.on("gap", () => lobby.heard.push(["gap"]));
        }})()""")

    async def browser_heard(self, user, name):
        return await self.game.tab.evaluate(f"{user}.heard.filter(([name]) => name === {json.dumps(name)})")

    async def browser_hears(self, user, event):
        await self.game.tab.until(f"{user}.heard.some((event) => JSON.stringify(event) === {json.dumps(json.dumps(event, separators=(',', ':')))})")

    async def browser(self, expression):
        return await self.game.tab.evaluate(expression)


async def a_game_and_a_page_talk(page):
    await page.joins("ann", "talk", is_later=True)
    await page.browser_joins("bob", "talk")
    await page.game.hears("ann", ["join", "bob"])
    before = await page.browser("Date.now()")
    knows = await page.game.becomes("ann", state="open", members=["ann", "bob"], me="ann", code="talk")
    # It is unknown until the first ping is answered.
    while knows["latency"] < 0:
        await asyncio.sleep(0.05)
        before = await page.browser("Date.now()")
        knows = await page.game.do("knows", "ann")
    after, error = await page.browser("Date.now()"), 1_000 + knows["latency"]
    assert before - error < knows["now"] < after + error, (before, knows["now"], after)
    asked = await page.game.do("request", "ann", "move", {"to": "e4", "n": 1.0, "at": 0.5})
    assert asked["ok"] and asked["fields"]["seq"] > 0, asked
    await page.browser_hears("bob", ["move", {"to": "e4", "n": 1, "at": 0.5}])
    await page.browser("bob.ask('chat', 'Grüße, 世界 👩‍👩‍👧')")
    await page.game.hears("ann", ["message", "bob", "chat", {"data": "Grüße, 世界 👩‍👩‍👧"}, "Dictionary"])
    await page.browser("bob.ask('broadcast', { data: 9007199254740991 })")
    await page.game.hears("ann", ["message", "bob", "", 9007199254740991, "int"])
    await page.browser("bob.ask('direct', { to: 'ann', data: [1, 2.5] })")
    await page.game.hears("ann", ["message", "bob", "", [1, 2.5], "Array"])
    assert await page.game.do("send", "ann", "chat", "volatile")
    await page.browser_hears("bob", ["chat", {"data": "volatile"}])
    assert await page.game.do("send_bytes", "ann", 1_000)
    await page.browser_hears("bob", ["binary", 1_000])
    await page.browser("bob.bytes(new Uint8Array([0, 1, 255]))")
    await page.game.hears("ann", ["bytes", 3, "0001ff"])
    rubbish = "".join(map(chr, range(1, 32))) + '\\v \\\v"'
    asked = await page.game.do("request", "ann", "chat", {rubbish: rubbish})
    assert asked["ok"], asked
    await page.browser_hears("bob", ["chat", {rubbish: rubbish}])
    refused = await page.game.do("request", "ann", "direct", {"to": "nobody", "data": 0})
    equal((refused["ok"], refused["error"]), (False, "user_not_found"), "a refused request")
    await page.game.do("leave", "ann")
    await page.browser_hears("bob", ["leave", "ann", "left"])
    equal((await page.game.do("knows", "ann"))["state"], "closed", "the state")


async def messages_above_64_kib_arrive(page):
    await page.joins("ann", "large")
    await page.browser_joins("bob", "large")
    # The largest message that may be sent. With its sender and number it is larger than the socket's default buffer.
    fits = 65_536 - len('{"type":"large","text":"","ref":1}')
    await page.browser(f"bob.ask('large', {{ text: 'x'.repeat({fits} - 24) }})")
    await page.game.hears("ann", ["message", "bob", "large", {"text": "x" * (fits - 24)}, "Dictionary"])
    asked = await page.game.do("request", "ann", "large", {"text": "y" * (fits - 24)})
    assert asked["ok"], asked
    # The answer may be read before the other member has read the message.
    await page.game.tab.until("bob.heard.some(([name]) => name === 'large')")
    equal([len(event[1]["text"]) for event in await page.browser_heard("bob", "large")], [fits - 24], "lengths")
    too_large = await page.game.do("request", "ann", "large", {"text": "y" * 65_536})
    equal(too_large["error"], "too_large", "a larger one")
    equal((await page.game.do("knows", "ann"))["state"], "open", "the state")
    # More than the queue of requests holds, if the server allows it.
    with Lobbyd(page.server.binary, *SERVER, "--max-message-bytes", "512KiB", "--max-outbound-bytes", "4MiB") as server:
        page = Page(page.game, server)
        await page.joins("ann", "larger")
        await page.browser_joins("bob", "larger")
        asked = await page.game.do("request", "ann", "large", {"text": "z" * 400_000})
        assert asked["ok"], asked
        await page.game.tab.until("bob.heard.some(([name]) => name === 'large')")
        equal([len(event[1]["text"]) for event in await page.browser_heard("bob", "large")], [400_000], "lengths")


async def an_operators_reconnect_keeps_the_seat(page):
    await page.joins("ann", "operated")
    await page.browser_joins("bob", "operated")
    conn = (await page.game.do("knows", "ann"))["conn"]
    admin = page.server.wait_for_log(r"admin API on http://127\.0\.0\.1:(\d+)", SECONDS).group(1)
    kick = urllib.request.Request(f"http://127.0.0.1:{admin}/users/ann/kick", b'{"reconnect":true}', {"Content-Type": "application/json"})
    urllib.request.urlopen(kick).close()
    await page.browser("bob.ask('chat', 'meanwhile')")
    await page.game.hears("ann", ["message", "bob", "chat", {"data": "meanwhile"}, "Dictionary"])
    equal((await page.game.becomes("ann", state="open"))["conn"], conn, "the seat")
    assert ["gap"] not in await page.game.do("heard", "ann")
    equal(await page.browser_heard("bob", "leave"), [], "leaves")


async def nothing_is_lost_or_doubled_behind_a_faulty_proxy(page):
    with Lobbyd(page.server.binary, *SERVER, *HISTORY, *FAST_PINGS) as server, \
            Proxy(server.port, PROXY_SEED, PROXY_MEAN) as proxy:
        page = Page(page.game, server)
        await page.browser_joins("bob", "faulty")
        for user in "ann", "cy":
            await page.joins(user, "faulty", proxy.port)
        counting = [asyncio.create_task(page.game.do("count", user, 200, PROXY_SECONDS)) for user in ("ann", "cy")]
        sent, is_calm, end = 0, False, time.monotonic() + PROXY_SECONDS
        while not (is_calm and all(task.done() for task in counting)):
            await page.browser(f"bob.ask('count', {{ n: {sent} }})")
            sent += 1
            await asyncio.sleep(0.05)
            if not is_calm and time.monotonic() > end and await losses(page, "ann", "cy") > 5:
                is_calm = True
                proxy.calm()
        outcomes = [await task for task in counting]
        equal(outcomes, [["ok"] * 200] * 2, "outcomes of the requests")
        await page.browser(f"bob.ask('count', {{ n: {sent} }})")
        wanted = list(range(sent + 1))
        for user in "ann", "cy":
            heard = await page.game.hears(user, ["message", "bob", "count", {"n": sent}, "Dictionary"])
            assert ["gap"] not in heard, "a gap"
            equal([event[3]["n"] for event in heard if event[:3] == ["message", "bob", "count"]], wanted, f"what {user} hears of bob")
            others = [event[3]["n"] for event in heard if event[0] == "message" and event[1] != "bob"]
            equal(others, list(range(200)), f"what {user} hears of the other")
        equal(sorted(event[1]["n"] for event in await page.browser_heard("bob", "count")), sorted([*range(200)] * 2), "what bob hears")
        equal(await page.browser_heard("bob", "leave"), [], "leaves")
    print(f"faults: {proxy.faults}")
    assert sum(proxy.faults.values()) > 5, proxy.faults


async def losses(page, *users):
    """How often the members have lost their connections."""
    heard = [await page.game.do("heard", user) for user in users]
    return sum(events.count(["state", "waiting"]) for events in heard)


async def a_full_buffer_loses_nothing(page):
    """The game does not run while more arrives than the socket's buffer holds; the browser reads on."""
    with Lobbyd(page.server.binary, *SERVER, "--history-bytes", "4MiB", "--max-outbound-bytes", "16MiB") as server:
        page = Page(page.game, server)
        await page.joins("ann", "full")
        await page.browser_joins("bob", "full")
        conn = (await page.game.do("knows", "ann"))["conn"]
        await page.game.do("polls", "ann", False)
        for n in range(40):
            await page.browser(f"bob.ask('large', {{ n: {n}, text: 'x'.repeat(60_000) }})")
        # More than three quarters of the buffer. What the server has sent may still be on its way.
        while await page.game.do("unread", "ann") < 15:
            await asyncio.sleep(0.05)
        await page.game.do("polls", "ann", True)
        heard = await page.game.hears("ann", ["message", "bob", "large", {"n": 39, "text": "x" * 60_000}, "Dictionary"])
        equal([event[3]["n"] for event in heard if event[0] == "message"], list(range(40)), "messages")
        assert ["gap"] not in heard, "a gap"
        equal((await page.game.do("knows", "ann"))["conn"], conn, "the seat")
        equal(await page.browser_heard("bob", "leave"), [], "leaves")
        assert ["state", "waiting"] in heard, "the buffer was not full"


async def a_reload_of_the_page_comes_back_to_the_seat(page):
    await page.joins("ann", "reload")
    conn = (await page.game.do("knows", "ann"))["conn"]
    await page.game.tab.reload()
    await page.game.until("ready")
    await page.joins("ann", "reload")
    equal((await page.game.do("knows", "ann"))["conn"], conn, "the seat")


async def a_hidden_page_stays_in_its_lobby(page):
    await page.joins("ann", "hidden")
    await page.browser_joins("bob", "hidden")
    browser = page.game.tab.browser
    other = await browser.call("Target.createTarget", url="about:blank")
    await browser.call("Target.activateTarget", targetId=other["targetId"])
    await page.game.tab.until("document.hidden")
    frames = await page.game.do("frames")
    await page.browser("bob.ask('chat', 'psst')")
    await page.game.hears("ann", ["message", "bob", "chat", {"data": "psst"}, "Dictionary"])
    # The proof that it was no frame that has read it.
    assert await page.game.do("frames") <= frames + 1, "frames are drawn"
    await browser.call("Target.closeTarget", targetId=other["targetId"])
    await page.game.tab.until("!document.hidden")


async def lobby_control_and_lists(page):
    with Lobbyd(page.server.binary, *SERVER, "--lobby-control", "on") as server:
        page = Page(page.game, server)
        await page.game.do("list", "watcher", page.url("~lobbies"), {"tags": {"game": "chess"}})
        await page.joins("ann", "~new")
        knows = await page.game.becomes("ann", host="ann", me="ann")
        code = knows["code"]
        await page.browser_joins("bob", code)
        settings = {"max": 3, "listed": True, "tags": {"game": "chess"}, "start": {"min": 2, "ready": True, "countdown_ms": 200}}
        asked = await page.game.do("control", "ann", "configure", [settings])
        assert asked["ok"], asked
        await page.game.hears("watcher", ["lobbies", 1])
        found = await page.game.do("find", "watcher", page.url("~lobbies"), {"tags": {"game": "chess"}})
        equal([entry["code"] for entry in found["fields"]["lobbies"]], [code], "the list")
        asked = await page.game.do("set", "ann", {"round": 1, "map": {"name": "hills"}}, False)
        assert asked["ok"], asked
        await page.game.tab.until("JSON.stringify([bob.data.round, bob.data.map]) === '[1,{\"name\":\"hills\"}]'")
        equal(await page.browser("bob.data"), {"round": 1, "map": {"name": "hills"}}, "the data")
        await page.browser("bob.me.set({ ready: true })")
        await page.game.hears("ann", ["data", {"ready": True}, "bob"])
        assert (await page.game.do("set", "ann", {"ready": True}, True))["ok"]
        await page.game.hears("ann", ["start", 2])
        asked = await page.game.do("control", "ann", "kick", ["nobody"])
        equal(asked["error"], "user_not_found", "a kick of nobody")
        bob = await page.browser("bob.me.conn")
        assert (await page.game.do("control", "ann", "hand_over", [bob]))["ok"]
        await page.game.becomes("ann", host="bob")
        asked = await page.game.do("control", "ann", "kick", ["bob", True])
        equal(asked["error"], "not_allowed", "a kick by another member")
        await page.browser("bob.kick('ann', { ban: true })")
        await page.game.becomes("ann", state="closed")
        again = await page.game.do("join", "ann", page.url(code), False)
        equal((again["ok"], again["error"]), (False, "banned"), "a banned user")


async def a_game_that_is_too_fast_is_slowed_down_and_not_closed(page):
    with Lobbyd(page.server.binary, "--messages-per-second", 20, "--message-burst", 20) as server:
        page = Page(page.game, server)
        # A name of its own: the former members of another one go on.
        await page.joins("eve", "fast")
        # In each frame one.
        equal(await page.game.do("count", "eve", 120, 0.1), ["ok"] * 120, "outcomes of the requests")
        equal([event for event in await page.game.do("heard", "eve") if event[0] == "state"], [["state", "connecting"], ["state", "open"]], "states")


async def a_freed_node_leaves(page):
    await page.joins("ann", "freed")
    await page.browser_joins("bob", "freed")
    await page.game.do("free", "ann")
    await page.browser_hears("bob", ["leave", "ann", "left"])


CLAIMS = [a_game_and_a_page_talk, messages_above_64_kib_arrive, an_operators_reconnect_keeps_the_seat, a_full_buffer_loses_nothing,
          lobby_control_and_lists, a_game_that_is_too_fast_is_slowed_down_and_not_closed, a_freed_node_leaves, a_hidden_page_stays_in_its_lobby, a_reload_of_the_page_comes_back_to_the_seat,
          nothing_is_lost_or_doubled_behind_a_faulty_proxy]


async def played(browser, binary, only):
    """Yields pairs of a claim's name and its error, "" if it holds."""
    async with show(browser, game(script("player.gd"))) as playing:
        await playing.until("ready")
        for claim in CLAIMS:
            if only not in claim.__name__:
                continue
            with Lobbyd(binary, *SERVER, *HISTORY) as server:
                server.binary = binary
                try:
                    async with asyncio.timeout(CLAIM_SECONDS):
                        await claim(Page(playing, server))
                        await playing.take()
                    yield claim.__name__, ""
                except Exception as error:
                    detail = str(error) if isinstance(error, AssertionError) else traceback.format_exc(limit=-3)
                    yield claim.__name__, f"{detail[:3000]}\n" + "\n".join(playing.printed[-10:])


async def example_of_the_guide(browser, binary):
    """The example of the guide, as it is there but for the address."""
    with Lobbyd(binary, *SERVER) as server:
        code = guide_code().replace("127.0.0.1:9001", f"127.0.0.1:{server.port}")
        async with show(browser, game(code.encode()), "#later") as playing:
            page = Page(playing, server)
            await page.game.tab.until("!!globalThis.joinWithBrowser")
            # Before the game, which makes its move when it has joined.
            await page.browser_joins("bob", "chess")
            await page.browser("start()")
            user = (await asyncio.to_thread(server.wait_for_log, r'user="(guest-\d+)" lobby=chess joined', GAME_SECONDS)).group(1)
            await page.browser_hears("bob", ["move", {"to": "e4"}])
            await page.browser("bob.ask('chat', 'well played')")
            wanted = r"message \d+\n(.*\n)*bob says chat: .*well played"
            end = time.monotonic() + SECONDS
            while not re.search(wanted, printed := "\n".join(playing.printed)):
                assert time.monotonic() < end, f"the game has printed: {printed}"
                await playing.take()
                await asyncio.sleep(0.05)
            equal(await page.browser("[...bob.members.values()].map(({ user }) => user).sort()"), ["bob", user], "members")


async def main(options):
    tally = Tally()
    only = options.only or ""
    if not only:
        for name, error in syntax():
            tally.count(name, error)
    vectors = {f"vectors/{os.path.basename(path)}": read(path) for path in sorted(glob.glob(os.path.join(ROOT, "tests/vectors/*.json")))}
    async with Browser() as browser:
        for main_script, files in ("vector_runner.gd", vectors), ("checks.gd", {}):
            if only in main_script:
                async for name, error in reported(browser, main_script, **files):
                    tally.count(f"{main_script}: {name}", error)
        async for name, error in played(browser, options.lobbyd, only):
            tally.count(name, error)
        if only in example_of_the_guide.__name__:
            await tally.check(example_of_the_guide.__name__, example_of_the_guide(browser, options.lobbyd), CLAIM_SECONDS)
    return tally.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="runs what has this in its name")
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    sys.exit(asyncio.run(main(parser.parse_args())))
