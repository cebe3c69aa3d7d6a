#!/usr/bin/env python3
"""The playground and the example pages in Chromium, against a running lobbyd.

    tests/clients/run --playground [--pictures FOLDER] [path/to/lobbyd]

Two windows talk, members go away and come back, and each button does what it says. The pages are checked on a phone and on a
desktop, in light and in dark: no error in the console, nothing wider than the screen. --pictures writes what they look like.
"""

import argparse
import asyncio
import json
import os
import sys
import traceback
import urllib.error
import urllib.request

from lobbyd import Lobbyd, default_binary
from tabs import DESKTOP, PHONE, Browser, Files

HERE = os.path.dirname(os.path.abspath(__file__))
PAGES = os.path.join(HERE, "../../examples/pages")
# A socket that the page closes on purpose, and attempts to connect while the server is away.
SOCKETS = ["WebSocket connection to"]


class Rig:
    def __init__(self, binary, browser, pictures):
        self.binary, self.browser, self.pictures = binary, browser, pictures

    async def show(self, tab, name):
        """Checks a page in all sizes and colours, and keeps pictures of it."""
        for size in PHONE, DESKTOP:
            for dark in False, True:
                await tab.look(size, dark)
                await asyncio.sleep(0.3)
                await tab.check()
                if self.pictures:
                    await tab.picture(os.path.join(self.pictures, f"{name}-{size[0]}-{'dark' if dark else 'light'}.png"))


# ---- the playground ----

def pane(number, rest=""):
    return f"document.querySelectorAll('article')[{number}]{rest}"


async def state(tab, number, wanted):
    await tab.until(f"{pane(number)}?.dataset.state === {json.dumps(wanted)}")


async def press(tab, number, what):
    await tab.until(f"!{pane(number)}.querySelector('[data-fault={what}]').disabled")
    await tab.evaluate(f"{pane(number)}.querySelector('[data-fault={what}]').click()")


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
        await rig.show(tab, "playground")
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
        await press(tab, 0, "drop")
        await state(tab, 0, "waiting")
        await tab.until(f"{pane(1)}.querySelectorAll('.members .away').length === 1")
        assert [first, "away"] in await members(tab, 1)
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
        await press(tab, 0, "freeze")
        await say(tab, 1, '{"type":"broadcast","data":"are you there?"}')
        server.wait_for_log(rf'user="{await user(tab, 0)}".*unhealthy', 10)
        assert not await tab.evaluate(f"{pane(0)}.querySelector('.log').textContent.includes('are you there')")
        assert await tab.evaluate(f"{pane(0)}.querySelector('.state').textContent") == "frozen"
        await logged(tab, 0, "are you there?")
        await state(tab, 0, "open")
        await tab.check()
        await tab.close()


async def a_reload_of_the_page_comes_back_to_the_same_seats(rig):
    with Lobbyd(rig.binary) as server:
        tab = await open_playground(rig, server)
        users = [await user(tab, 0), await user(tab, 1)]
        await tab.call("Page.reload")
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
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures")
    parser.add_argument("--only", default="")
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    options = parser.parse_args()
    return asyncio.run(run(options))


CHECKS = [
    two_clients_talk_as_soon_as_the_page_is_open,
    a_link_opens_another_window,
    each_button_does_what_it_says,
    a_frozen_client_hears_everything_later,
    a_reload_of_the_page_comes_back_to_the_same_seats,
    names_are_text_and_never_clipped_away,
    the_program_serves_the_page_on_loopback_addresses_only,
]


async def run(options):
    failed = 0
    if options.pictures:
        os.makedirs(options.pictures, exist_ok=True)
    async with Browser() as browser:
        rig = Rig(options.lobbyd, browser, options.pictures)
        checks = [check for check in CHECKS if options.only in check.__name__]
        for check in checks:
            try:
                await check(rig)
                print(f"ok     {check.__name__.replace('_', ' ')}", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED {check.__name__.replace('_', ' ')}\n{traceback.format_exc()}", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
