#!/usr/bin/env python3
"""The playground and the example pages in Chromium, against a running lobbyd.

    tests/clients/run --playground [--pictures FOLDER] [--readme examples/pictures] [path/to/lobbyd]

Two windows talk, members go away and come back, and each button does what it says. The pages are checked on a phone and on a
desktop, in light and in dark: no error in the console, nothing wider than the screen. --pictures writes what they look like, and
--readme the pictures of the README. The arena is the example that is built next to lobbyd.
"""

import asyncio
import contextlib
import json
import os
import random
import tempfile
import urllib.error
import urllib.request

from websockets.asyncio.client import connect

from lobbyd import LISTENING, Lobbyd
from page_checks import main
from tabs import DESKTOP, PHONE, SECONDS, Files

HERE = os.path.dirname(os.path.abspath(__file__))
PAGES = os.path.join(HERE, "../../examples/pages")
# A socket that the page closes on purpose, and the picture of the page in the README, which names none.
SOCKETS = ["WebSocket connection to", "favicon.ico"]


# ---- the playground ----

def pane(number, rest=""):
    return f"document.querySelectorAll('article')[{number}]{rest}"


async def state(tab, number, wanted):
    await tab.until(f"{pane(number)}?.dataset.state === {json.dumps(wanted)}")


async def press(tab, number, what):
    await tab.click_on(f"{pane(number)}.querySelector('[data-fault={what}]:enabled')")


async def logged(tab, number, part):
    await tab.until(f"{pane(number)}.querySelector('.log').textContent.includes({json.dumps(part)})")


async def user(tab, number):
    return await tab.evaluate(f"{pane(number)}.querySelector('h2').textContent")


async def members(tab, number):
    return await tab.evaluate(f"[...{pane(number)}.querySelectorAll('.members li')].map((item) => [item.textContent, item.className])")


async def say(tab, number, text, button=".say .main"):
    await tab.evaluate(f"{pane(number)}.querySelector('textarea').value = {json.dumps(text)}")
    await tab.evaluate(f"{pane(number)}.querySelector({json.dumps(button)}).click()")


async def open_playground(rig, server, rest="", count=2):
    tab = await rig.browser.open(f"http://127.0.0.1:{server.port}/{rest}", allowed=SOCKETS)
    for number in range(count):
        await state(tab, number, "open")
    return tab


async def two_clients_talk_as_soon_as_the_page_is_open(rig):
    with Lobbyd(rig.binary) as server:
        tab = await open_playground(rig, server)
        await tab.click(".say .main")
        await logged(tab, 1, f'"from":"{await user(tab, 0)}"')
        await say(tab, 1, '{"type":"broadcast","data":"with an ack","ref":"r"}')
        await logged(tab, 1, '"delivered":1')
        await logged(tab, 0, "with an ack")
        await say(tab, 0, json.dumps({"type": "direct", "to": await user(tab, 1), "data": "psst"}))
        await logged(tab, 1, "psst")
        await say(tab, 0, '{"type":"move","to":"e4"}', ".request")
        await logged(tab, 0, 'request move: done {"seq":')
        await logged(tab, 1, '"to":"e4"')
        await say(tab, 0, '{"type":')
        await logged(tab, 0, "bad_message")
        await say(tab, 0, "not JSON at all", ".request")
        await logged(tab, 0, "SyntaxError")
        await tab.check()
        # It is away for a moment only.
        away = await tab.watch(f"{pane(0)}.querySelectorAll('.members .away').length === 1")
        await press(tab, 1, "drop")
        await tab.until(away)
        await rig.show(tab, "playground", in_readme="playground")
        await tab.close()


async def a_link_opens_another_window(rig):
    with Lobbyd(rig.binary) as server:
        tab = await open_playground(rig, server, "#lobby=chess&name=ann", 1)
        await tab.click("#link")
        link = await tab.until("document.querySelector('#notice').textContent.match(/http\\S+/)?.[0]")
        assert "lobby=chess" in link and "name=ann" not in link, link
        other = await rig.browser.open(link)
        await state(other, 0, "open")
        await say(other, 0, '{"type":"broadcast","data":"from the other window"}')
        await logged(tab, 0, "from the other window")
        assert len(await members(tab, 0)) == 2
        await other.close()
        await tab.until(f"{pane(0)}.querySelectorAll('.members .away').length === 1")
        await tab.check()
        await tab.close()


async def each_button_does_what_it_says(rig):
    with Lobbyd(rig.binary) as server:
        tab = await open_playground(rig, server)
        first, second = await user(tab, 0), await user(tab, 1)
        waiting = await tab.watch(f"{pane(0)}.dataset.state === 'waiting'")
        away = await tab.watch(f"[...{pane(1)}.querySelectorAll('.members .away')].map((item) => item.textContent).join() === {json.dumps(first)}")
        await press(tab, 0, "drop")
        await tab.until(waiting)
        await tab.until(away)
        await say(tab, 1, '{"type":"broadcast","data":"while you were away"}')
        await say(tab, 0, '{"type":"move","to":"d5"}', ".request")
        await state(tab, 0, "open")
        await logged(tab, 0, "while you were away")
        await logged(tab, 0, "request move: done")
        await tab.until(f"{pane(1)}.querySelectorAll('.members .away').length === 0")
        await press(tab, 0, "flood")
        await logged(tab, 0, "rate_limited")
        await state(tab, 0, "open")
        await press(tab, 1, "reload")
        await state(tab, 1, "open")
        await logged(tab, 1, '"resumed":true')
        assert await user(tab, 1) == second and len(await members(tab, 0)) == 2
        await press(tab, 1, "duplicate")
        await state(tab, 2, "open")
        await tab.until(f"{pane(1)}.querySelector('.state').textContent === 'closed: replaced'")
        await press(tab, 2, "leave")
        await tab.until(f"{pane(0)}.querySelectorAll('.members li').length === 1")
        await tab.evaluate(f"{pane(2)}.querySelector('.remove').click()")
        await tab.until("document.querySelectorAll('article').length === 2")
        await tab.check()
        await rig.show(tab, "playground-closed")
        await tab.close()


async def a_frozen_client_hears_everything_later(rig):
    with Lobbyd(rig.binary, "--health-interval", "2s") as server:
        tab = await open_playground(rig, server)
        frozen = await tab.watch(f"{pane(0)}.querySelector('.state').textContent === 'frozen'")
        await press(tab, 0, "freeze")
        await tab.until(frozen)
        await say(tab, 1, '{"type":"broadcast","data":"are you there?"}')
        server.wait_for_log(rf'user="{await user(tab, 0)}".*unhealthy', SECONDS)
        await logged(tab, 0, "are you there?")
        # The order of the lines: it heard it after it woke up, however long this test took to look.
        lines = await tab.evaluate(f"{pane(0)}.querySelector('.log').textContent")
        assert lines.index("frozen for") < lines.index("the page wakes up") < lines.index("are you there?"), lines
        await state(tab, 0, "open")
        await tab.check()
        await tab.close()


async def a_reload_of_the_page_comes_back_to_the_same_seats(rig):
    with Lobbyd(rig.binary) as server:
        tab = await open_playground(rig, server)
        users = [await user(tab, 0), await user(tab, 1)]
        await tab.reload()
        for number in 0, 1:
            await state(tab, number, "open")
            await logged(tab, number, '"resumed":true')
        assert users == [await user(tab, 0), await user(tab, 1)]
        # A window without a link is somebody else.
        other = await open_playground(rig, server)
        assert await user(other, 0) not in users
        for each in tab, other:
            await each.check()
            await each.close()


async def control(tab, number, selector, before=""):
    """Clicks something in the part of a pane for lobby control. `before` is done first, in the same step."""
    await tab.until(f"""(() => {{
        const element = {pane(number)}.querySelector('.control:not([hidden])')?.querySelector({json.dumps(selector)});
        if (!element || element.disabled) return false;
        {before}
        element.click();
        return true;
    }})()""")


async def fill(tab, number, form, **fields):
    """Fills a form and sends it, in one step: the page fills it itself when the settings change."""
    what = {name: "checked" if isinstance(value, bool) else "value" for name, value in fields.items()}
    changes = [f"{pane(number)}.querySelector('{form}').elements.{name}.{what[name]} = {json.dumps(value)};" for name, value in fields.items()]
    await control(tab, number, f"{form} button", "".join(changes))


def summary(number, part):
    return f"{pane(number)}.querySelector('summary').textContent.includes({json.dumps(part)})"


async def lobby_control_is_shown_and_changed(rig):
    with Lobbyd(rig.binary, "--lobby-control", "on") as server:
        tab = await open_playground(rig, server)
        host, guest = await user(tab, 0), await user(tab, 1)
        await tab.until(summary(1, f"playground · host {host}"))
        for number in 0, 1:
            await tab.evaluate(f"{pane(number)}.querySelector('.control').open = true")
        await fill(tab, 0, ".set", key="round", value="1")
        await tab.until(f"{pane(1)}.querySelector('.data').textContent === 'round1'")
        await fill(tab, 1, ".set", key="round", value="2")
        await logged(tab, 1, "set: not_allowed")
        await fill(tab, 1, ".set", of="me", key="team", value="red")
        await tab.until(f"""{pane(0)}.querySelector('.people').textContent.includes('{guest} {{"team":"red"}}')""")
        await fill(tab, 0, ".settings", name="Friday", max="3", game="go", listed=True)
        for number in 0, 1:
            await tab.until(summary(number, "Friday"))
        assert await tab.evaluate(f"{pane(1)}.querySelector('.settings').elements.max.value") == "3"
        await tab.until("document.querySelector('#list summary').textContent.includes('1')")
        assert await tab.evaluate("document.querySelector('#list li').textContent") == "playground · Friday · game: go · 2 of 3"
        await fill(tab, 0, ".settings", max="99")
        await logged(tab, 0, "settings: bad_message")
        await control(tab, 0, "[data-do=start]")
        counts = await tab.watch(summary(1, "starts in"))
        await control(tab, 0, "[data-do=ready]")
        await control(tab, 1, "[data-do=ready]")
        await tab.until(counts)
        await tab.until(f"{pane(0)}.querySelectorAll('.members .ready').length === 2")
        await rig.show(tab, "playground-control")
        await logged(tab, 1, f"the game starts with {host}, {guest}")
        await tab.until(summary(0, "locked"))
        await tab.until("document.querySelector('#list summary').textContent.includes('none')")
        await fill(tab, 0, ".settings", locked=False, password="secret")
        await tab.until(summary(1, "password"))
        await tab.click_on(f"[...{pane(0)}.querySelectorAll('.people button')].find((button) => button.textContent === 'Ban')")
        await state(tab, 1, "closed")
        assert await tab.evaluate(f"{pane(1)}.querySelector('.state').textContent") == "closed: banned"
        # The list joins with the password of the form.
        await tab.evaluate("document.querySelector('#password').value = 'secret', true")
        await tab.until("document.querySelector('#list li')?.textContent.includes('password')")
        await tab.click("#list li button")
        await state(tab, 2, "open")
        await tab.evaluate("document.querySelector('#password').value = '', true")
        people = f"[...{pane(0)}.querySelectorAll('.people span')].map((item) => item.textContent.split(' ')[0]).join()"
        await tab.until(f"{people} === {json.dumps(f'{host},{await user(tab, 2)}')}")
        await control(tab, 0, ".people button:last-of-type")
        await tab.until(f"{pane(2)}.querySelectorAll('.members .me.host').length === 1")
        await fill(tab, 2, ".settings", watchers="2", password=" ")
        await tab.until(f"!{summary(2, 'password')}")
        await tab.click("[data-way=watch]")
        await tab.until(summary(3, "you watch"))
        await tab.until(f"{pane(3)}.querySelectorAll('.members li').length === 2")
        await tab.check()
        await tab.close()


async def new_lobbies_and_quick_joins_are_a_click(rig):
    with Lobbyd(rig.binary, "--lobby-control", "on") as server:
        tab = await open_playground(rig, server)
        await tab.click("[data-way=new]")
        await state(tab, 2, "open")
        await control(tab, 2, "[data-do=share]")
        link = await tab.until("document.querySelector('#notice').textContent.match(/http\\S+/)?.[0]")
        friend = await rig.browser.open(link)
        await friend.until(f"{pane(0)}?.querySelectorAll('.members li').length === 2")
        await friend.close()
        for _ in range(2):
            await tab.click("[data-way=quick]")
        # The second one may be in the lobby first.
        for number in 3, 4:
            await state(tab, number, "open")
            await tab.until(f"{pane(number)}.querySelectorAll('.members li').length === 2")
        users = [await user(tab, number) for number in range(5)]
        summaries = "[...document.querySelectorAll('.control summary')].map((summary) => summary.textContent.split(' ')[0])"
        codes = await tab.evaluate(summaries)
        assert codes[2] in link and codes[3] == codes[4] and len({*codes}) == 3, codes
        await tab.reload()
        for number in range(5):
            await state(tab, number, "open")
            await logged(tab, number, '"resumed":true')
        assert users == [await user(tab, number) for number in range(5)]
        await tab.until(f"JSON.stringify({summaries}) === {json.dumps(json.dumps(codes, separators=(',', ':')))}")
        await tab.check()
        await tab.close()


async def names_are_text_and_never_clipped_away(rig):
    name = "<img src=x onerror=alert(1)>" + "W" * 90
    with Lobbyd(rig.binary) as server:
        tab = await open_playground(rig, server)
        await tab.evaluate(f"document.querySelector('#name').value = {json.dumps(name)}")
        await tab.click("#add .main")
        await state(tab, 2, "open")
        assert await user(tab, 2) == name
        assert await tab.evaluate("document.querySelectorAll('main img').length") == 0
        await tab.look(PHONE)
        await tab.check()
        await rig.show(tab, "playground-long")
        await tab.close()


async def the_program_serves_the_page_on_loopback_addresses_only(rig):
    def status(server, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=SECONDS) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
    for arguments, page, client in [
        ([], 200, 200),
        (["--auth", "open-to-anybody", "--trusted-proxies", "1"], 404, 200),
        (["--auth", "open-to-anybody", "--trusted-proxies", "1", "--playground", "on"], 200, 200),
        (["--playground", "off"], 404, 200),
        (["--playground", "off", "--serve-client", "off"], 404, 404),
        (["--app", "echo"], 426, 426),
    ]:
        with Lobbyd(rig.binary, *arguments) as server:
            got = status(server, "/"), status(server, "/lobby.js")
            assert got == (page, client), (arguments, got)
            port = LISTENING.search(server.log()).group(1)
            is_named = f"playground on http://127.0.0.1:{port}/" in server.log()
            assert is_named == (page == 200), server.log()


# ---- the example pages ----

async def two_windows(rig, files, name, rest="", size=DESKTOP):
    """Opens the page in two windows: each is a user of its own."""
    tabs = [await rig.browser.open(f"{files.address}/{name}{rest}", size, allowed=SOCKETS) for _ in range(2)]
    return tabs


async def finish(*tabs):
    for tab in tabs:
        await tab.check()
        await tab.close()


def pages(server):
    return Files(PAGES, {"127.0.0.1:9001": f"127.0.0.1:{server.port}"})


async def the_chat_shows_who_is_there_and_loses_nothing(rig):
    with Lobbyd(rig.binary) as server, pages(server) as files:
        ann, bob = await two_windows(rig, files, "chat.html")
        for tab in ann, bob:
            await tab.until("document.querySelectorAll('#members li').length === 2")
        say = "(text.value = {}, form.requestSubmit())".format
        await ann.evaluate(say("'hello, bob'"))
        await bob.until("log.textContent.includes('hello, bob')")
        await bob.reload()
        await bob.until("document.querySelectorAll('#members li').length === 2")
        await bob.evaluate(say("'back again'"))
        await ann.until("log.textContent.includes('back again')")
        # The other one has gone for good: its seat is kept, and it is shown as away.
        await rig.show(ann, "chat")
        await finish(bob)
        await ann.until("document.querySelectorAll('#members .away').length === 1")
        await finish(ann)


async def cursors_follow_the_pointer(rig):
    with Lobbyd(rig.binary) as server, pages(server) as files:
        ann, bob = await two_windows(rig, files, "cursors.html")
        for tab in ann, bob:
            await tab.until("document.querySelector('p').textContent.includes('1 other window')")
        for step in range(1, 30):
            await ann.mouse("mouseMoved", 20 * step, 10 * step)
            await asyncio.sleep(0.02)
        moved = "(() => { const box = document.querySelector('.cursor')?.getBoundingClientRect(); return box && Math.round(box.left) === 580 && Math.round(box.top) === 290 })()"
        await bob.until(moved)
        # A name at the edge stays inside the window.
        await ann.mouse("mouseMoved", 1279, 799)
        await bob.until("document.querySelector('.cursor')?.getBoundingClientRect().left > 1270")
        inside = await bob.evaluate("(({ right, bottom }) => right <= innerWidth && bottom <= innerHeight)(document.querySelector('.cursor b').getBoundingClientRect())")
        assert inside, "the name is clipped"
        await bob.look(PHONE)
        await bob.touch("touchStart", (100, 200))
        await bob.touch("touchMove", (200, 400))
        await ann.until("Math.round(document.querySelector('.cursor')?.getBoundingClientRect().left) === Math.round(1280 * 200 / 390)")
        await rig.show(ann, "cursors")
        await finish(ann, bob)


async def tic_tac_toe_is_played_to_its_end_and_again(rig):
    with Lobbyd(rig.binary) as server, pages(server) as files:
        ann, bob = await two_windows(rig, files, "tictactoe.html")
        play = "(() => {{ const cell = document.querySelectorAll('#board button')[{}]; return !cell.disabled && (cell.click(), true) }})()".format
        first, second = None, None
        for tab, other in (ann, bob), (bob, ann):
            await tab.until("/Your turn|plays/.test(document.querySelector('#status').textContent)")
            if await tab.evaluate("document.querySelector('#status').textContent.includes('Your turn')"):
                first, second = tab, other
        assert first, "one of them begins"
        await first.until(play(0))
        await second.until(play(3))
        # A page that is loaded again gets the game from the other one.
        await second.reload()
        await second.until("document.querySelectorAll('#board .X').length === 1 && document.querySelectorAll('#board .O').length === 1")
        await first.until(play(1))
        await second.until(play(4))
        await first.until(play(2))
        await second.until("document.querySelectorAll('#board .won').length === 3")
        await first.until("document.querySelector('#status').textContent === 'You have won!'")
        await rig.show(first, "tictactoe")
        await second.click("#again")
        for tab in first, second:
            await tab.until("document.querySelectorAll('#board .X, #board .O').length === 0")
        # The other one begins now.
        await second.until(play(8))
        await first.until("document.querySelectorAll('#board .X').length === 1")
        await finish(first, second)


async def a_party_game_is_played_by_two(rig):
    with Lobbyd(rig.binary, "--lobby-control", "on") as server, pages(server) as files:
        async def enter(address, name, size=DESKTOP):
            tab = await rig.browser.open(address, size, allowed=SOCKETS)
            await tab.until("globalThis.nick && document.readyState === 'complete'")
            await tab.evaluate(f"(nick.value = {json.dumps(name)}, enter.requestSubmit())")
            await tab.until("!room.hidden")
            return tab
        says = "headline.textContent.includes({!r})".format

        async def set_ready(tab, ready=True):
            await tab.until(f"!document.querySelector('#ready').disabled && document.querySelector('#ready').checked !== {json.dumps(ready)}")
            await tab.click("#ready")

        async def answer(tab, error=0):
            await tab.until("/^\\d+ \\+ \\d+/.test(headline.textContent)")
            await tab.evaluate(f"(sum.value = headline.textContent.match(/\\d+/g).reduce((a, b) => Number(a) + Number(b), {error}), document.querySelector('#answer').requestSubmit())")

        points = "[...players.querySelectorAll('span')].map((item) => item.textContent.trim())"
        ann = await enter(f"{files.address}/party.html", "Ann")
        code = await ann.until("document.querySelector('#code').textContent")
        link = await ann.evaluate("location.href")
        assert link.endswith(f"#{code}") and len(code) == 5, link
        bob = await enter(link, "Bob <b>", PHONE)
        for tab in ann, bob:
            await tab.until(f"JSON.stringify({points}) === '[\"★ Ann: 0\",\"Bob <b>: 0\"]'")
        await ann.evaluate("(max.value = 2, max.onchange(), true)")
        await bob.until("max.value === '2' && max.disabled")
        full = await rig.browser.open(link, allowed=SOCKETS)
        await full.until("globalThis.nick && document.readyState === 'complete'")
        await full.evaluate("(nick.value = 'Cy', enter.requestSubmit())")
        await full.until(says("lobby_full"))
        await finish(full)
        await set_ready(ann)
        # The countdown is short: the page itself takes it back.
        await bob.evaluate("""globalThis.counted = false; new MutationObserver((_, observer) => {
            if (!headline.textContent.includes('It starts in')) return;
            observer.disconnect();
            counted = true;
            document.querySelector('#ready').click();
        }).observe(headline, { subtree: true, childList: true, characterData: true }); true""")
        await set_ready(bob)
        await bob.until("counted && !document.querySelector('#ready').checked")
        await ann.until(says("two or more are here and ready"))
        await rig.show(ann, "party-lobby")
        await set_ready(bob)
        await answer(bob, error=1)
        await answer(bob)
        await ann.until(f"{points}[1].startsWith('Bob <b>: 1')")
        # The host is loaded again: it comes back to its seat and goes on.
        await ann.reload()
        await ann.until(f"globalThis.players && {points}[1]?.startsWith('Bob <b>: 1')")
        await answer(ann)
        # Both know it: else bob would answer what is answered.
        for tab in ann, bob:
            await tab.until(f"{points}[0].startsWith('★ Ann: 1')")
        for number in 2, 3:
            await answer(bob)
            if number == 2:
                await bob.until(f"{points}[1].startsWith('Bob <b>: 2')")
        for tab in ann, bob:
            await tab.until(says("Bob <b> wins!"))
        await rig.show(bob, "party")
        await ann.click("#again")
        await bob.until(says("two or more are here and ready"))
        await set_ready(bob)
        await set_ready(ann)
        await ann.until(says(" + "))
        # The other one becomes the host, and the game goes on.
        await ann.evaluate("location.href = 'about:blank'")
        await bob.until(f"{points}[1].startsWith('★')")
        await answer(bob)
        await bob.until(f"{points}[1].startsWith('★ Bob <b>: 1')")
        await bob.evaluate("players.querySelector('button').click()")
        await bob.until("players.children.length === 1")
        await finish(bob)
        await ann.close()


@contextlib.asynccontextmanager
async def bots(server, *names):
    """Players that run about and fire."""
    async def play(ws, random):
        while True:
            await ws.send(json.dumps({"type": "input", "dx": random.randint(-1, 1), "dy": random.randint(-1, 1), "fire": random.random() < 0.4}))
            await asyncio.sleep(0.25)
    async with contextlib.AsyncExitStack() as stack:
        tasks = []
        for name in names:
            ws = await stack.enter_async_context(connect(server.url("arena", name), proxy=None, max_queue=None))
            tasks.append(asyncio.create_task(play(ws, random.Random(name))))
        yield
        for task in tasks:
            task.cancel()


async def the_arena_is_played_with_keys_and_with_fingers(rig):
    binary = os.path.join(os.path.dirname(rig.binary), "examples/arena")
    with Lobbyd(binary) as server:
        page = server.wait_for_log(r"open (http://\S+) in two windows", SECONDS).group(1)
        ann = await rig.browser.open(f"{page}&name=ann", allowed=SOCKETS)
        bob = await rig.browser.open(f"{page}&name=bob-with-a-name-that-is-longer-than-most-names", PHONE, allowed=SOCKETS)
        for tab in ann, bob:
            await tab.until("document.querySelectorAll('#scores li').length === 2")
        # What has been painted last, by name.
        spy = """paint = document.querySelector('canvas').getContext('2d'); names = {};
                 const write = paint.fillText.bind(paint);
                 paint.fillText = (name, x, y, room) => { names[name] = { x, y, half: paint.measureText(name).width / 2 }; write(name, x, y, room); }; true"""
        for tab in ann, bob:
            await tab.evaluate(spy)
        at = "(names['{0}'] ?? {{}}).{1}".format
        await ann.until(f"{at('ann', 'x')} > 0")
        for key, axis in ("ArrowLeft", "x"), ("ArrowUp", "y"):
            await ann.key(key, True)
            await asyncio.sleep(0.1)
            await ann.until(f"(globalThis.was ??= {{}}, (() => {{ const now = {at('ann', axis)}; const still = now === was.{axis}; was.{axis} = now; return still }})())")
            await ann.key(key, False)
        await ann.key(" ", True)
        # On the phone: the stick to the right, and fire with a second finger.
        box = await bob.evaluate("(({ left, top, width, height }) => [left + width / 2, top + height / 2])(document.querySelector('#stick').getBoundingClientRect())")
        fire = await bob.evaluate("(({ left, top, width, height }) => [left + width / 2, top + height / 2])(document.querySelector('#fire').getBoundingClientRect())")
        name = "bob-with-a-name-that-is-longer-than-most-names"
        await bob.touch("touchStart", box)
        await bob.touch("touchMove", (box[0] + 40, box[1]))
        await bob.touch("touchStart", (box[0] + 40, box[1]), fire)
        await ann.until(f"{at(name, 'x')} + {at(name, 'half')} > 780")
        clipped = f"(() => {{ const {{ x, half }} = names['{name}']; return x - half < 0 || x + half > 800 }})()"
        for tab in ann, bob:
            await tab.until(at(name, "half"))
            assert not await tab.evaluate(clipped), "the name is clipped at the edge"
        await ann.key(" ", False)
        async with bots(server, "cleo", "dan", "eve", "finn"):
            await ann.until("document.querySelectorAll('#scores li').length === 6")
            for is_down in True, False:
                for key in "ArrowRight", "ArrowDown":
                    await ann.key(key, is_down)
                await asyncio.sleep(0.8)
            await rig.show(ann, "arena", in_readme="arena")
        await bob.check()
        # It keeps its place in the arena while it is loaded again.
        await bob.reload()
        await bob.until("document.querySelectorAll('#scores li').length === 2")
        await finish(ann, bob)


async def the_page_of_the_readme_runs(rig):
    with open(os.path.join(HERE, "../../README.md"), encoding="utf-8") as readme:
        page = readme.read().split("\n```html\n")[1].split("\n```")[0]
    lines = page.split("<script")[1].split("</script>")[0].strip().split("\n")[1:]
    assert len(lines) <= 5, f"the script has {len(lines)} lines"
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "chat.html"), "w", encoding="utf-8") as file:
            file.write(page)
        with Lobbyd(rig.binary) as server, Files(folder, {"127.0.0.1:9001": f"127.0.0.1:{server.port}"}) as files:
            # The one that is in the lobby first shows the other.
            ann = await rig.browser.open(f"{files.address}/chat.html", allowed=SOCKETS)
            await ann.until("!!globalThis.text?.onchange")
            bob = await rig.browser.open(f"{files.address}/chat.html", allowed=SOCKETS)
            await ann.until("globalThis.log?.textContent.includes('is here')")
            await ann.evaluate("text.value = 'hello from the README', text.dispatchEvent(new Event('change')), true")
            for tab in ann, bob:
                await tab.until("log.textContent.includes('hello from the README')")
            await finish(ann, bob)


CHECKS = [
    two_clients_talk_as_soon_as_the_page_is_open,
    a_link_opens_another_window,
    each_button_does_what_it_says,
    a_frozen_client_hears_everything_later,
    a_reload_of_the_page_comes_back_to_the_same_seats,
    lobby_control_is_shown_and_changed,
    new_lobbies_and_quick_joins_are_a_click,
    names_are_text_and_never_clipped_away,
    the_program_serves_the_page_on_loopback_addresses_only,
    the_chat_shows_who_is_there_and_loses_nothing,
    cursors_follow_the_pointer,
    tic_tac_toe_is_played_to_its_end_and_again,
    a_party_game_is_played_by_two,
    the_arena_is_played_with_keys_and_with_fingers,
    the_page_of_the_readme_runs,
]


if __name__ == "__main__":
    main(CHECKS)
