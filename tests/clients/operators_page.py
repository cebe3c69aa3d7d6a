#!/usr/bin/env python3
"""The operators' page in Chromium, against a running lobbyd.

    tests/clients/run --operators-page [--pictures FOLDER] [--readme examples/pictures] [--only NAME] [path/to/lobbyd]

Every command is clicked, and seen at the members or in the statistics. The page is shown with 0, 10 and 10,000 lobbies, on a phone
and on a desktop, in light and in dark: no error in the console, nothing wider than the screen. --pictures writes what it looks like,
and --readme the picture of the README.
"""

import asyncio
import contextlib
import json

from websockets.exceptions import ConnectionClosed

from attempts import attempts
from lobbyd import Lobbyd, free_port
from operators_commands import COMMANDS
from operators_events import EVENTS
from operators_rig import (
    GONE, HOSTILE, MESSAGE, TOKEN, PageRig, Server, absent, close_with, confirm, event_stream, log_in, look_at, noted,
    press, rows, shown, text_of, type_key, until)
from page_checks import main
from tabs import SECONDS


async def the_page_asks_for_the_token_and_keeps_it_in_memory_only(rig):
    async with Server(rig.binary, token=TOKEN) as server:
        tab = await rig.open(server, allowed=["401"])
        await rig.show(tab, "login")
        assert await tab.evaluate("document.querySelector('#main').hidden && document.querySelector('#refused').hidden")
        await log_in(tab, "wrong-horse-battery-staple")
        await tab.until("document.querySelector('#login').open && !document.querySelector('#refused').hidden")
        await log_in(tab, f"  {TOKEN}\t")
        await shown(tab, "#state", "ready")
        kept = await tab.evaluate("""(async () => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href,
            await indexedDB.databases(), await caches.keys(), history.state, document.documentElement.outerHTML,
            [...document.querySelectorAll('input')].map((input) => input.value), performance.getEntries().map((entry) => entry.name)]))()""")
        assert kept.startswith('[{},{},"",') and TOKEN not in kept and "wrong-horse" not in kept, kept[:300]
        await tab.check()
        # The page forgets all that it shows.
        await tab.click("#forget")
        await tab.until("document.querySelector('#login').open && document.querySelector('#main').hidden")
        await log_in(tab, TOKEN)
        await tab.until("!document.querySelector('#main').hidden")
        await tab.reload()
        await tab.until("document.querySelector('#login')?.open")
        await log_in(tab, TOKEN)
        await shown(tab, "#state", "ready")
        # A way back to the page, from wherever it leads.
        await tab.call("Page.navigate", url="about:blank")
        await tab.until("location.href === 'about:blank'")
        await tab.evaluate("history.back()")
        await tab.until("document.querySelector('#login')?.open")
        await tab.close()


async def the_page_loads_nothing_from_elsewhere_and_runs_nothing_else(rig):
    async with Server(rig.binary) as server:
        tab = await rig.open(server, allowed=["Content Security Policy", "TrustedHTML", "document"])
        await shown(tab, "#state", "ready")
        names = await tab.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert names and all(name.startswith(server.page) for name in names), names
        for attack in ["document.body.innerHTML += '<p>'", "eval('1')", "document.body.setAttribute('onclick', 'globalThis.hit = 1'), document.body.click()",
                       "document.body.append(Object.assign(document.createElement('script'), { textContent: 'globalThis.hit = 1' }))",
                       "document.body.append(Object.assign(document.createElement('img'), { src: 'http://127.0.0.1:1/x' }))"]:
            await tab.evaluate(f"(() => {{ try {{ {attack} }} catch {{}} }})()")
        assert not await tab.evaluate("globalThis.hit")
        assert not await tab.evaluate("document.querySelector('body > p:empty')")
        # Another page cannot show it in a frame, where a visitor might click on it.
        framed = await rig.browser.open("about:blank")
        await framed.evaluate(f"""new Promise((done) => document.body.append(Object.assign(document.createElement('iframe'), {{ src: '{server.page}', onload: done }}))).then(() => 1)""")
        frames = (await framed.call("Page.getFrameTree"))["frameTree"]["childFrames"]
        assert [frame["frame"]["url"] for frame in frames] == ["chrome-error://chromewebdata/"], frames
        for each in tab, framed:
            await each.close()


async def an_empty_server_is_shown(rig):
    async with Server(rig.binary) as server:
        tab = await rig.open(server)
        await shown(tab, "#no-lobbies", "There are no lobbies.")
        await shown(tab, "#charts", "Connections")
        has_events = "error" not in event_stream(server)
        if has_events:
            await tab.until("!document.querySelector('#events').hidden")
        await asyncio.sleep(4.5)
        assert await tab.evaluate("document.querySelector('#events').hidden") != has_events
        await rig.show(tab, "none")
        await tab.close()


async def ten_lobbies_are_shown_with_their_members(rig):
    async with Server(rig.binary, "--lobby-control", "on", "--tick-hz", "20", "--ping-interval", "3s", "--pong-timeout", "2s") as server:
        for number in range(10):
            for user in range(number % 4 + 1):
                await server.join(f"table-{number}", f"user-{number}-{user}")
        server.ask("/lobbies/table-3/settings", {"settings": {"name": "Friday <b>night</b>", "listed": True, "password": "x"}})
        server.ask("/lobbies/table-3/data", {"data": {"map": "dust", "round": 3}})
        server.ask("/lobbies/table-4/lock", {"locked": True})
        talk = asyncio.create_task(chatter(server))
        tab = await rig.open(server, "#lobby/table-3")
        await tab.until("document.querySelectorAll('#lobbies tbody tr').length === 10")
        assert await tab.evaluate(text_of("#lobbies tbody tr td:nth-child(2)")) == "1"
        await shown(tab, "#lobbies", "Friday <b>night</b>")
        await tab.until("document.querySelectorAll('#view tbody tr').length === 4")
        await shown(tab, "#view details:nth-of-type(2) pre", '"round": 3')
        await shown(tab, "#view h2", "table-3")
        await shown(tab, "#charts", "p99")
        # The rates and latencies are those of the server.
        await tab.until("/[1-9].*\\/s/.test([...document.querySelectorAll('figure')].find((one) => one.textContent.startsWith('Messages')).textContent)")
        await tab.until("/ms|µs/.test([...document.querySelectorAll('figure')].find((one) => one.textContent.startsWith('Ping')).textContent)")
        # A member leaves, a lobby ends: rows that stay are the same elements.
        await tab.evaluate("globalThis.kept = document.querySelectorAll('#lobbies tbody tr')[5], true")
        await server.members["user-0-0"].ws.close()
        await server.members["user-3-3"].ws.close()
        await tab.until("document.querySelectorAll('#lobbies tbody tr').length === 9")
        assert await tab.evaluate("kept.isConnected && document.querySelectorAll('#lobbies tbody tr')[4] === kept")
        await rig.show(tab, "ten", in_readme="operators")
        await look_at(tab, "user", "user-3-1")
        await tab.until("document.querySelectorAll('#view tbody tr').length > 0")
        assert await rows(tab, "#view") == ["table-3"]
        await rig.show(tab, "user")
        await look_at(tab, "lobby", "table-4")
        await shown(tab, "#view h2", "locked")
        await tab.evaluate("history.back()")
        await shown(tab, "#view h2", "user-3-1")
        await tab.evaluate("location.hash = '#lobby/none'")
        await absent(tab, "lobby")
        assert await tab.evaluate("[...document.querySelectorAll('#view .buttons, #view table')].every((one) => one.closest('[hidden]'))")
        await tab.evaluate("location.hash = '#user/%zz'")
        await tab.until("document.querySelector('#view').textContent === ''")
        talk.cancel()
        await tab.check()
        await tab.close()


async def chatter(server):
    while True:
        for user, member in list(server.members.items()):
            # Only those that are silent are pinged.
            if user.startswith("user-9"):
                continue
            with contextlib.suppress(ConnectionClosed):
                await member.ws.send('{"type":"move","to":"e4"}')
        await asyncio.sleep(0.1)


async def ten_thousand_lobbies_do_not_freeze_the_page(rig):
    async with Server(rig.binary, "--lobby-control", "on", "--max-lobbies", "20000", "--max-connections", "20000") as server:
        for number in range(10_000):
            answer = server.ask("/lobbies", {"code": f"L{number:05}", "ttl_ms": 3_600_000})
            assert "epoch" in answer, answer
        member = await server.join("L07777", "ann")
        # A stall of the machine is one of the page too, but hardly of three pages.
        for attempt in attempts():
            await use_with_ten_thousand_lobbies(rig, server, member, attempt)


async def use_with_ten_thousand_lobbies(rig, server, member, attempt):
    # Another text each time: the member keeps what it has heard.
    to_all = f"all {len(member.heard)}"
    tab = await rig.open(server)
    await shown(tab, "#count", "10,000")
    # The longest time in which the page handles nothing else.
    await tab.evaluate("""globalThis.longest = 0; let last = performance.now();
        setInterval(() => { const now = performance.now(); longest = Math.max(longest, now - last - 20); last = now; }, 20); true""")
    seen = set()
    for page in range(1, 6):
        await shown(tab, "#pages", f"page {page}")
        await tab.until("document.querySelectorAll('#lobbies tbody tr').length === 50")
        found = await rows(tab, "#lobbies")
        assert not seen & set(found), "a lobby is on two pages"
        seen |= set(found)
        await press(tab, "#pages", "Next")
        await shown(tab, "#pages", f"page {page + 1}")
        await tab.until(f"document.querySelector('#lobbies tbody a').textContent !== {json.dumps(found[0])}")
    await press(tab, "#pages", "Previous")
    await shown(tab, "#pages", "page 5")
    await rig.show(tab, "many")
    for text, expected in [("l0777", 10), ("L09999", 1), ("nothing", 0)]:
        await tab.evaluate(f"document.querySelector('#text').value = {json.dumps(text)}, document.querySelector('#search').requestSubmit()")
        await tab.until(f"document.querySelectorAll('#lobbies tbody tr').length === {expected}")
        assert all(text.upper() in code for code in await rows(tab, "#lobbies"))
    await shown(tab, "#no-lobbies", "No such lobby.")
    await rig.show(tab, "many-none")
    await tab.evaluate("document.querySelector('#text').value = '', document.querySelector('#text').dispatchEvent(new Event('input')), true")
    await tab.until("document.querySelectorAll('#lobbies tbody tr').length === 50")
    # Every lobby is told, a few at a time.
    await press(tab, "#all", "Publish to all…")
    await confirm(tab, message=MESSAGE)
    await tab.until("!document.querySelector('#job').hidden")
    await press(tab, "#job", "Stop")
    await noted(tab, "stopped; ")
    await press(tab, "#all", "Publish to all…")
    await confirm(tab, message=f'"{to_all}"')
    # While it is going on.
    await tab.until(f"/Published to [1-9],/.test({text_of('#job span')})")
    await rig.show(tab, "many-job")
    await tab.until(f"{text_of('#done ol li')}.includes('10,000 lobbies')", 600)
    await noted(tab, "1 queued, 0 dropped")
    await member.hears("message", f'"data":"{to_all}"')
    longest = await tab.evaluate("longest")
    print(f"       the page stood still for {longest:.0f} ms at most", flush=True)
    attempt.check(longest < 500, f"the page stood still for {longest:.0f} ms")
    await tab.check()
    await tab.close()


async def lists_are_sorted_by_their_headers(rig):
    """All lobbies are sorted, not those of one page."""
    # An answer to a ping would change who is idle.
    async with Server(rig.binary, "--max-lobbies", "21000", "--max-connections", "21000", "--lobby-control", "on", "--ping-interval", "1h") as server:
        for number in range(20_000 - 2):
            assert "epoch" in server.ask("/lobbies", {"code": f"L{number:05}", "ttl_ms": 3_600_000})
        await server.join("two", "ann")
        bob = await server.join("two", "bob")
        await server.join("one", "cid")
        tab = await rig.open(server)
        await tab.until("document.querySelectorAll('#lobbies tbody tr').length === 50")
        marks = "[...document.querySelectorAll('{} th')].map((th) => th.ariaSort)"

        async def sort(table, label, first, expected):
            await press(tab, table, label)
            await tab.until(f"[...document.querySelectorAll('{table} tbody a')].slice(0, {len(first)}).map((one) => one.textContent).join() === {json.dumps(','.join(first))}")
            # The order may have been this one before.
            await tab.until(f"JSON.stringify({marks.format(table)}) === {json.dumps(json.dumps(expected, separators=(',', ':')))}")

        none = [None] * 5
        await sort("#lobbies", "Members", ["two", "one", "L00000"], [None, "descending", None, None, None])
        await press(tab, "#pages", "Next")
        await tab.until("document.querySelector('#lobbies tbody a').textContent === 'L00048'")
        await sort("#lobbies", "Age", ["L00000", "L00001"], [None, None, None, None, "descending"])
        await shown(tab, "#pages", "page 1")
        await sort("#lobbies", "Age", ["one", "two", "L19997"], [None, None, None, None, "ascending"])
        # The members of a lobby have headers of their own.
        await look_at(tab, "lobby", "two")
        await asyncio.sleep(1.2)
        await bob.ws.send('{"type":"ping"}')
        await sort("#view", "Idle", ["ann", "bob"], [None, None, "descending", None])
        await sort("#view", "Idle", ["bob", "ann"], [None, None, "ascending", None])
        assert await tab.evaluate(marks.format("#lobbies")) == none[:4] + ["ascending"]
        await rig.show(tab, "sorted")
        members = "[...document.querySelectorAll('#view tbody a')].map((one) => one.textContent).join()"
        for text, found in [("BO", "bob"), ("世" * 64, ""), ("", "bob,ann")]:
            await tab.evaluate(f"(field => (field.value = {json.dumps(text)}, field.dispatchEvent(new Event('change'))))(document.querySelector('#view input'))")
            await tab.until(f"{members} === {json.dumps(found)}")
        # With one lobby more they are too many to be sorted: the page says so, and goes on without.
        said = await tab.watch(f"{text_of('#state')}.includes('more than 20000 entries is not sorted')")
        await (await server.join("more", "dan")).hears("welcome", "more")
        await tab.until(said)
        await shown(tab, "#state", "ready")
        await tab.until(f"{marks.format('#lobbies')}.every((mark) => !mark)")
        await tab.check()
        await tab.close()


async def hostile_names_are_text(rig):
    async with Server(rig.binary, "--max-per-lobby", "30") as server:
        for user in HOSTILE:
            await server.join("chess", user)
        # No path can name these two, so nobody can be called that.
        for user in ".", "..":
            await server.join("chess", user)
            assert await server.members[user].closed() == 4001
        others = server.ask("/stats")["total_connections"]
        tab = await rig.open(server, "#lobby/chess")
        await tab.until(f"document.querySelectorAll('#view tbody tr').length === {len(HOSTILE)}")
        await rig.show(tab, "hostile")
        for part in "U+202E", "U+200B", "U+3164", "U+2028", "U+0020":
            await shown(tab, "#view", part)
        for user in HOSTILE:
            found = "[...document.querySelectorAll('#view tbody a')].find((one) => decodeURIComponent(one.hash.slice(6)) === {})".format(json.dumps(user))
            await look_at(tab, "lobby", "chess")
            await tab.click_on(found)
            await tab.until(f"document.querySelector('#view h2').textContent.startsWith('User ') && document.querySelector('#view tbody a')?.textContent === 'chess'")
            await close_with(tab, "Kick…", 4003, server.members[user])
            others -= 1
            # The member knows of its end before the server knows of that of the connection.
            await until(lambda: server.ask("/stats")["total_connections"] <= others, f"{user} is gone")
            assert server.ask("/stats")["total_connections"] == others, user
        assert not await tab.evaluate("globalThis.hit || document.images.length || document.scripts.length > 1 || document.querySelectorAll('iframe').length")
        # A link that somebody has sent.
        await tab.evaluate("location.hash = '#user/..'")
        await absent(tab, "user")
        await tab.evaluate("location.hash = '#user/<img src=x onerror=globalThis.hit=1>'")
        await shown(tab, "#view h2", "<img src=x")
        await absent(tab, "user")
        assert not await tab.evaluate("globalThis.hit || document.images.length")
        await tab.check()
        await tab.close()


COUNT = """globalThis.asked = []; globalThis.askedAt = []; const ask = fetch; globalThis.fetch = (path, ...rest) => {
    asked.push(String(path));
    if (path === "stats") askedAt.push(performance.now());
    return ask(path, ...rest);
}; true"""


async def a_hidden_page_asks_nothing(rig):
    async with Server(rig.binary) as server:
        tab = await rig.open(server)
        await tab.evaluate(COUNT)
        hide = "Object.defineProperty(document, 'hidden', {{ configurable: true, get: () => {} }}), document.dispatchEvent(new Event('visibilitychange')), true"
        await tab.evaluate(hide.format("true"))
        # What it has begun to ask before it goes on. A page that does not stop asks every two seconds.
        for _ in range(3):
            await tab.evaluate("asked.length = 0, true")
            await asyncio.sleep(5)
            if not (asked := await tab.evaluate("asked")):
                break
        assert asked == [], asked
        await tab.evaluate(hide.format("false"))
        await tab.until("asked.includes('stats')")
        await tab.check()
        await tab.close()


async def the_page_waits_longer_and_longer_for_a_server_that_is_away(rig):
    async with Server(rig.binary, admin=free_port()) as server:
        tab = await rig.open(server, allowed=GONE)
        await tab.evaluate(COUNT)
        # How often it had asked when it said so.
        await tab.evaluate("""globalThis.waits = {}; new MutationObserver(() => {
            const seconds = /asked again after (\\d+) s/.exec(document.querySelector('#state').textContent)?.[1];
            if (seconds) waits[seconds] ??= askedAt.length;
        }).observe(document.querySelector('#state'), { subtree: true, childList: true, characterData: true }); true""")
        server.terminate()
        await asyncio.to_thread(server.exit_code, SECONDS)
        for seconds in 4, 8:
            count = await tab.until(f"waits[{seconds}]")
            await tab.until(f"askedAt.length > {count}")
            # The clock of the page and that of its timers differ by a little.
            pause = await tab.evaluate(f"askedAt[{count}] - askedAt[{count - 1}]")
            assert pause > seconds * 1000 - 50, f"asked again after {pause} ms"
        again = Lobbyd(rig.binary, "--admin", f"127.0.0.1:{server.admin}")
        try:
            await tab.click("#retry")
            await shown(tab, "#state", "ready")
            await tab.until("document.querySelector('#retry').hidden")
            # A server that has counted from 0 again shows no negative rates.
            await asyncio.sleep(4.5)
            assert not await tab.evaluate("document.querySelector('#charts').textContent.includes('-')")
        finally:
            again.close()
        await tab.close()


async def everything_is_done_with_the_keyboard(rig):
    async with Server(rig.binary) as server:
        ann = await server.join("chess", "ann")
        tab = await rig.open(server)
        await tab.until("document.querySelectorAll('#lobbies tbody tr').length === 1")

        async def tab_to(label):
            for _ in range(60):
                if await tab.evaluate(f"document.activeElement.textContent === {json.dumps(label)}"):
                    return
                await type_key(tab, "Tab")
            raise AssertionError(f"no way to {label}")

        await tab_to("chess")
        outline = await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", outline
        await type_key(tab, "Enter")
        await shown(tab, "#view h2", "chess")
        await tab_to("Kick all…")
        await type_key(tab, "Enter")
        await tab.until("document.querySelector('#ask').open && document.activeElement.value === 'cancel'")
        await type_key(tab, "Escape")
        await tab.until("!document.querySelector('#ask').open && document.activeElement.textContent === 'Kick all…'")
        await type_key(tab, "Enter")
        await tab.until("document.querySelector('#ask').open")
        await tab_to("Kick")
        await type_key(tab, "Enter")
        assert await ann.closed() == 4003
        names = await tab.evaluate("""[...document.querySelectorAll('input, button, select, textarea, [role=img]')].filter((one) => one.checkVisibility())
            .filter((one) => !(one.ariaLabel || one.textContent || one.labels?.length)).map((one) => one.outerHTML)""")
        assert names == [], names
        await tab.check()
        await tab.close()


# Eighty times as fast, in the timers and in the clock.
FAST = """(() => {
  const [later, now] = [setTimeout, performance.now.bind(performance)];
  globalThis.setTimeout = (what, ms) => later(what, ms / 80);
  performance.now = () => now() * 80;
  globalThis.polled = 0;
  const ask = fetch;
  globalThis.fetch = (path, ...rest) => { polled += path === "stats"; return ask(path, ...rest); };
})()"""


async def memory_stays_flat_for_a_quarter_of_an_hour(rig):
    async with Server(rig.binary) as server:
        for number in range(60):
            await server.join(f"table-{number % 30}", f"user-{number}")
        tab = await rig.browser.open("about:blank", allowed=["status of 404"])
        await tab.call("Page.addScriptToEvaluateOnNewDocument", source=FAST)
        await tab.call("Page.navigate", url=server.page + "#lobby/table-1")

        # A single reading varies by a quarter: code is compiled and thrown away again, answers are on their way. The lowest of
        # several does not, and what is kept for ever is in each of them.
        async def lowest(first):
            readings = []
            for polls in range(first, first + 80, 10):
                await tab.until(f"polled > {polls}", 180)
                await tab.call("HeapProfiler.collectGarbage")
                counts = await tab.call("Memory.getDOMCounters")
                heap = await tab.call("Runtime.getHeapUsage")
                readings.append((heap["usedSize"], counts["nodes"], counts["jsEventListeners"]))
            return [min(values) for values in zip(*readings)]

        for attempt in attempts():
            first = await tab.evaluate("polled")
            before = await lowest(first + 160)
            after = await lowest(first + 400)
            grown = [new - old for new, old in zip(after, before)]
            attempt.check(grown[0] < 100_000 and grown[1] < 200 and grown[2] < 20, f"{before} became {after}")
        await tab.until("document.querySelectorAll('#lobbies tbody tr').length === 30")
        await tab.check()
        await tab.close()


CHECKS = [
    the_page_asks_for_the_token_and_keeps_it_in_memory_only,
    the_page_loads_nothing_from_elsewhere_and_runs_nothing_else,
    an_empty_server_is_shown,
    ten_lobbies_are_shown_with_their_members,
    ten_thousand_lobbies_do_not_freeze_the_page,
    lists_are_sorted_by_their_headers,
    *COMMANDS,
    hostile_names_are_text,
    a_hidden_page_asks_nothing,
    the_page_waits_longer_and_longer_for_a_server_that_is_away,
    *EVENTS,
    everything_is_done_with_the_keyboard,
    memory_stays_flat_for_a_quarter_of_an_hour,
]


if __name__ == "__main__":
    main(CHECKS, PageRig)
