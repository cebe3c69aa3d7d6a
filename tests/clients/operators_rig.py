"""A server with an operators' port, its members, and what a person does on the page."""

import asyncio
import contextlib
import http.client
import json
import os
import tempfile
import time
import urllib.parse

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from lobbyd import Lobbyd
from page_checks import Rig
from tabs import DESKTOP, SECONDS

TOKEN = "correct-horse-battery-staple"
ADMIN = r"admin API on http://127\.0\.0\.1:(\d+)"
# Texts that a page would run, would take for a path, or would show as something else.
HOSTILE = ["<img src=x onerror=globalThis.hit=1>", "\"><script>globalThis.hit=1</script>", "javascript:globalThis.hit=1//", "a/b?c#d&e=%2e%2e", "%2e%2e",
           "__proto__", "constructor", " spaces ", "abc\u202egnp.exe", "in\u200bvisible", "\u3164", "two\u2028lines", "${alert(1)}{{7*7}}", "W" * 128, "ÄÖ世界👩‍👩‍👧"]
GONE = ["net::ERR_", "Failed to load resource"]
MESSAGE = '{"notice":12345678901234567890}'


class Server(Lobbyd):
    """A server with an operators' port. `conns` are its members, by name."""

    def __init__(self, binary, *options, token=None, admin=0):
        self.members, self.folder = {}, tempfile.TemporaryDirectory()
        if token:
            path = os.path.join(self.folder.name, "token")
            with open(path, "w", encoding="ascii") as file:
                file.write(token)
            options = ("--admin-token-file", path, *options)
        super().__init__(binary, "--admin", f"127.0.0.1:{admin}", *options)
        self.admin = int(self.wait_for_log(ADMIN, SECONDS).group(1))
        self.page = f"http://127.0.0.1:{self.delayed(self.admin)}/"
        self.http = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=SECONDS)
        self.asked_at = time.monotonic()

    def ask(self, path, body=None):
        # The server closes a connection on which it is asked nothing for 30 s.
        if time.monotonic() - self.asked_at > 10:
            self.http.close()
        self.asked_at = time.monotonic()
        lines = {"Content-Type": "application/json"} if body is not None else {}
        self.http.request("GET" if body is None else "POST", path, json.dumps(body) if body is not None else None, lines)
        answer = self.http.getresponse()
        return json.loads(answer.read())

    async def join(self, lobby, user):
        """Connects a member that answers health checks, and keeps what else it hears."""
        member = Member()
        self.members[user] = member
        await member.open(self.url(lobby, urllib.parse.quote(user, safe="")))
        return member

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for member in self.members.values():
            await member.ws.close()
        self.http.close()
        self.close()
        self.folder.cleanup()


class Member:
    async def open(self, url):
        self.heard = []
        # Pings of its own would show it as busy.
        self.ws = await connect(url, proxy=None, subprotocols=["lobby.v1.json"], open_timeout=SECONDS, ping_interval=None)
        self.task = asyncio.create_task(self.read())

    async def read(self):
        with contextlib.suppress(ConnectionClosed):
            async for text in self.ws:
                message = json.loads(text)
                if message["type"] == "health_ping":
                    await self.ws.send(json.dumps({"type": "health_pong", "timestamp": message["timestamp"]}))
                self.heard.append((message["type"], text))

    async def hears(self, kind, part):
        await until(lambda: any(heard == kind and part in text for heard, text in self.heard), f"{kind} {part}", self.heard)

    async def closed(self):
        await asyncio.wait_for(self.ws.wait_closed(), SECONDS)
        return self.ws.close_code


async def until(is_true, what, heard=()):
    end = asyncio.get_running_loop().time() + SECONDS
    while not is_true():
        assert asyncio.get_running_loop().time() < end, f"not within {SECONDS} s: {what}, the last: {heard[-3:]}"
        await asyncio.sleep(0.02)


class PageRig(Rig):
    async def open(self, server, rest="", size=DESKTOP, allowed=()):
        # The browser reports each answer that is a refusal, such as that of a server without events.
        tab = await self.browser.open(server.page + rest, size, allowed=["status of 404", "status of 409", *allowed])
        await tab.until("!document.querySelector('#main').hidden || document.querySelector('#login').open")
        return tab


# What a person does.

def text_of(selector):
    return f"document.querySelector({json.dumps(selector)}).textContent"


async def shown(tab, selector, part):
    await tab.until(f"(document.querySelector({json.dumps(selector)})?.textContent ?? '').includes({json.dumps(part)})")


async def press(tab, within, label):
    """Clicks the button with this label."""
    found = f"[...document.querySelectorAll({json.dumps(within + ' button')})].find((one) => one.textContent === {json.dumps(label)} && !one.hidden && !one.disabled)"
    await tab.click_on(found)


async def confirm(tab, word=None, message=None, kind=None):
    await tab.until("document.querySelector('#ask').open")
    if message is not None:
        await tab.evaluate(f"document.querySelector('#ask textarea').value = {json.dumps(message)}")
        await tab.evaluate(f"document.querySelector('#ask select').value = {json.dumps(kind or 'data')}")
    if word is not None:
        await tab.evaluate(f"document.querySelector('#ask-word input').value = {json.dumps(word)}")
    await tab.click("#ask .main")


async def close_with(tab, label, code, *members):
    """Clicks a button of the lobby or user that is shown, and confirms it: the members are closed with the code."""
    await press(tab, "#view", label)
    await confirm(tab)
    assert [await member.closed() for member in members] == [code] * len(members)


async def noted(tab, part):
    await shown(tab, "#done ol li", part)


async def type_key(tab, key):
    code = {"Enter": 13, "Tab": 9, "Escape": 27}[key]
    text = {"text": "\r"} if key == "Enter" else {}
    for kind in "keyDown", "keyUp":
        await tab.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **(text if kind == "keyDown" else {}))


async def look_at(tab, kind, name):
    # The page shows what it showed before for a moment.
    await tab.evaluate(f"""(() => {{
        const hash = '#{kind}/' + encodeURIComponent({json.dumps(name)});
        if (location.hash === hash) return;
        for (const child of document.querySelector('#view').children) child.dataset.isOld = true;
        location.hash = hash;
    }})()""")
    await tab.until("document.querySelectorAll('#view .buttons:not([data-is-old]) button').length > 0")


async def absent(tab, kind):
    """What is shown is a lobby or user that does not exist."""
    words = {"lobby": "No lobby of this code exists now.", "user": "This user is not connected now."}[kind]
    await tab.until(f"(({{ hidden, textContent }}) => !hidden && textContent === {json.dumps(words)})(document.querySelector('#view p'))")


async def rows(tab, selector):
    return await tab.evaluate(f"[...document.querySelectorAll({json.dumps(selector + ' tbody tr')})].map((row) => row.querySelector('a').textContent)")


async def log_in(tab, token):
    await tab.until("document.querySelector('#login').open")
    await tab.evaluate(f"document.querySelector('#token').value = {json.dumps(token)}")
    await tab.click("#login .main")


def event_stream(server):
    """The answer to a request for events: an error in a server without them."""
    server.http.request("GET", "/events")
    answer = server.http.getresponse()
    if answer.status == 200:
        server.http.close()
        return {}
    return json.loads(answer.read())
