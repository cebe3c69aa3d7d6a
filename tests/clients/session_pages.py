"""Pages in Chromium as members of a lobby, with the client of the guide or with lobby.js, controlled by the DevTools protocol."""

import asyncio
import contextlib
import itertools
import json
import os
import random

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from browser import HERE, chromium
from session_reports import Reports

CHANGES = {"freeze": 4, "offline": 3, "reload": 3}
PAGES = [("lobby_page.html", "sockets"), ("session_page.html", "sockets"), ("lobby_page.html", "events")]
# Chromium answers so while another document takes the place of the page.
NAVIGATES = "navigated or closed", "Cannot find context", "context was destroyed"
CHANGE_EVERY = 10.0             # mean seconds between two changes of a page
ONLINE = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}


async def debugger(profile):
    """Connects to the browser with this profile, which was started with --remote-debugging-port=0."""
    path = os.path.join(profile, "DevToolsActivePort")
    async with asyncio.timeout(60):
        while not (os.path.exists(path) and len(lines := open(path, encoding="ascii").read().split("\n")) == 2):
            await asyncio.sleep(0.1)
    port, target = lines
    return await connect(f"ws://127.0.0.1:{port}{target}", max_size=None, compression=None, ping_interval=None, proxy=None)


class DevTools:
    """A connection to the browser; `session` names the page."""

    def __init__(self, ws):
        self.ws, self.numbers, self.answers = ws, itertools.count(1), {}
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        with contextlib.suppress(ConnectionClosed):
            async for text in self.ws:
                message = json.loads(text)
                waiting = self.answers.pop(message.get("id"), None)
                if waiting and not waiting.done():
                    waiting.set_result(message)

    async def call(self, method, session=None, **params):
        number = next(self.numbers)
        self.answers[number] = asyncio.get_running_loop().create_future()
        await self.ws.send(json.dumps({"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})))
        answer = await asyncio.wait_for(self.answers[number], 60)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]


class Page(Reports):
    """One page: a member as those of sessions.py."""

    is_page = True

    def __init__(self, pages, rig, lobby, number):
        self.pages, self.rig, self.lobby = pages, rig, lobby
        self.user = f"page{number}"
        self.file, self.transport = PAGES[number % len(PAGES)]
        self.random = random.Random(f"{rig.seed} page {number}")
        self.is_frozen = False
        self.taking = asyncio.Lock()
        lobby.members.append(self)

    async def open(self):
        seed = self.random.randrange(1, 2 ** 31 - 1)
        query = f"port={self.rig.port}&lobby={self.lobby.name}&user={self.user}&seed={seed}&every=1&transport={self.transport}"
        url = f"{self.pages.origin}/{self.file}?{query}"
        target = await self.pages.tools.call("Target.createTarget", url=url)
        attached = await self.pages.tools.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in "Page", "Network":
            await self.call(f"{domain}.enable")
        self.polling = asyncio.create_task(self.poll())

    async def call(self, method, **params):
        return await self.pages.tools.call(method, self.session, **params)

    async def evaluate(self, expression):
        """Returns None while the page is loaded."""
        try:
            answer = await self.call("Runtime.evaluate", expression=f"globalThis.take ? {expression} : null", returnByValue=True)
        except AssertionError as error:
            if any(words in str(error) for words in NAVIGATES):
                return None
            raise
        if "exceptionDetails" in answer:
            raise AssertionError(f"{self.user}: {expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def poll(self):
        while True:
            await asyncio.sleep(0.5)
            await self.take()

    async def take(self, function="take"):
        """Enters what the page has noted since the last time in the books."""
        async with self.taking:
            if not self.is_frozen:
                for event in await self.evaluate(f"{function}()") or []:
                    self.enter(*event)

    async def live(self):
        while self.rig.talks():
            await asyncio.sleep(self.random.expovariate(1 / CHANGE_EVERY))
            if not self.rig.talks():
                break
            change = self.random.choices(list(CHANGES), CHANGES.values())[0]
            self.rig.changes[f"{change} of a page"] += 1
            seconds = self.random.choice([0.5, 3, 6]) * self.random.random()
            if change == "freeze":
                await self.freeze(seconds)
            elif change == "offline":
                await self.call("Network.emulateNetworkConditions", **ONLINE | {"offline": True})
                await asyncio.sleep(seconds)
                await self.call("Network.emulateNetworkConditions", **ONLINE)
            else:
                await self.reload()
        while not await self.evaluate("(quiet(), true)"):
            await asyncio.sleep(0.1)

    async def freeze(self, seconds):
        async with self.taking:
            self.is_frozen = True
        await self.call("Page.setWebLifecycleState", state="frozen")
        await asyncio.sleep(seconds)
        await self.call("Page.setWebLifecycleState", state="active")
        self.is_frozen = False

    async def reload(self):
        await self.take("end")
        self.give_up()
        self.previous = self.book
        await self.call("Page.reload")

    # ---- as of `Member` ----

    async def is_settled(self):
        return await self.evaluate("unsettled()") == 0

    def repair(self):
        """The page opens a new session itself."""

    async def list(self):
        await self.evaluate("list()")
        await asyncio.sleep(1)
        await self.take()

    def stop(self):
        self.polling.cancel()


class Pages:
    """The browser and the server of the pages. As an asynchronous context manager it ends them."""

    async def __aenter__(self):
        self.server = await asyncio.create_subprocess_exec(
            "node", os.path.join(HERE, "page_server.js"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        self.origin = (await asyncio.wait_for(self.server.stdout.readline(), 60)).decode().strip()
        self.browser = chromium("about:blank", "--remote-debugging-port=0")
        profile = self.browser.__enter__()
        try:
            self.tools = DevTools(await debugger(profile))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_):
        self.browser.__exit__(None, None, None)
        self.server.stdin.close()
        await self.server.wait()
