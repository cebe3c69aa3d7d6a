"""Tabs of headless Chromium for tests of pages, controlled by the DevTools protocol; and a server of static files."""

import asyncio
import base64
import functools
import http.server
import json
import os
import threading
import time

from websockets.exceptions import ConnectionClosed

from browser import chromium
from session_pages import DevTools, debugger

# Limit of what must happen at all. It costs nothing while it holds: a busy machine may need most of it.
SECONDS = 60
PHONE, DESKTOP = (390, 844), (1280, 800)


class Browser(DevTools):
    """A browser. As an asynchronous context manager it is closed at the end of the block."""

    def __init__(self):
        self.tabs = {}

    async def __aenter__(self):
        self.process = chromium("about:blank", "--remote-debugging-port=0", "--hide-scrollbars")
        profile = self.process.__enter__()
        try:
            ws = await debugger(profile)
        except BaseException:
            self.process.__exit__(None, None, None)
            raise
        super().__init__(ws)
        return self

    async def __aexit__(self, *_):
        self.process.__exit__(None, None, None)

    async def read(self):
        try:
            async for text in self.ws:
                message = json.loads(text)
                waiting = self.answers.pop(message.get("id"), None)
                if waiting and not waiting.done():
                    waiting.set_result(message)
                elif tab := self.tabs.get(message.get("sessionId")):
                    tab.note(message["method"], message["params"])
        except ConnectionClosed:
            pass

    async def open(self, url, size=DESKTOP, dark=False, allowed=()):
        """Shows a page. `allowed`: parts of errors that are expected in its console."""
        target = await self.call("Target.createTarget", url="about:blank", newWindow=True)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(self, target["targetId"], attached["sessionId"], allowed)
        self.tabs[tab.session] = tab
        for domain in "Page", "Runtime", "Log":
            await tab.call(f"{domain}.enable")
        await tab.look(size, dark)
        await tab.call("Page.navigate", url=url)
        return tab


class Tab:
    def __init__(self, browser, target, session, allowed):
        self.browser, self.target, self.session, self.allowed = browser, target, session, allowed
        self.errors = []

    async def call(self, method, **params):
        return await self.browser.call(method, self.session, **params)

    def note(self, method, params):
        text = None
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            text = details.get("exception", {}).get("description") or details["text"]
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            text = f"{params['entry']['text']} {params['entry'].get('url', '')}"
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            text = str([value.get("value") for value in params["args"]])
        if text and not any(part in text for part in self.allowed):
            self.errors.append(text)

    async def look(self, size, dark=False):
        """Sets the size in CSS pixels, and whether the system is dark. A narrow screen is that of a phone, with touch."""
        width, height = size
        is_phone = width < 600
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone)
        await self.call("Emulation.setTouchEmulationEnabled", enabled=is_phone)
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    async def evaluate(self, expression):
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(f"{expression}: {details.get('exception', {}).get('description') or details['text']}")
        return answer["result"].get("value")

    async def until(self, expression, seconds=SECONDS):
        """Waits until the expression is true, and returns its value."""
        end = time.monotonic() + seconds
        while True:
            try:
                value = await self.evaluate(expression)
            except AssertionError as problem:      # of a page that is not loaded yet
                value, why = None, str(problem)
            else:
                why = f"it is {value!r}"
            if value:
                return value
            if time.monotonic() > end:
                body = await self.evaluate("document.body?.innerText ?? ''")
                raise AssertionError(f"not within {seconds} s: {expression}: {why}\n{body[:1500]}\n{self.errors}")
            await asyncio.sleep(0.05)

    async def watch(self, expression):
        """Looks at each change of the document from now on. Returns an expression that is true once the given one has been true:
        also for a moment that a busy machine does not see."""
        number = await self.evaluate(f"""(() => {{
            const seen = globalThis.seen ??= [], number = seen.push(false) - 1;
            const look = () => {{ seen[number] ||= !!({expression}); }};
            look();
            new MutationObserver(look).observe(document, {{ subtree: true, childList: true, characterData: true, attributes: true }});
            return number;
        }})()""")
        return f"seen[{number}]"

    async def click(self, selector):
        await self.click_on(f"document.querySelector({json.dumps(selector)})")

    async def click_on(self, element):
        """Waits for an element and clicks it, in one step: a page may draw another one in its place between two."""
        await self.until(f"(() => {{ const element = {element}; element?.click(); return !!element; }})()")

    async def reload(self):
        """Loads the page again. What follows is about the new one: the old one goes on for a while."""
        await self.evaluate("globalThis.isOld = true")
        await self.call("Page.reload")
        await self.until("!globalThis.isOld && document.readyState === 'complete'")

    async def key(self, key, is_down):
        code = {" ": "Space"}.get(key, key)
        await self.call("Input.dispatchKeyEvent", type="keyDown" if is_down else "keyUp", key=key, code=code)

    async def mouse(self, kind, x, y):
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    async def touch(self, kind, *points):
        await self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y} for x, y in points])

    async def picture(self, path):
        shot = await self.call("Page.captureScreenshot", format="png")
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))

    async def check(self):
        """The page has reported no error, and nothing is wider than the screen."""
        assert not self.errors, self.errors
        # A page that draws itself after a change of the size may take a moment.
        await self.until("document.documentElement.scrollWidth <= innerWidth", 10)

    async def close(self):
        await self.browser.call("Target.closeTarget", targetId=self.target)


class Files:
    """Serves a folder on a port of its own, as `python3 -m http.server` does. `changes`: texts to replace in each file."""

    def __init__(self, folder, changes):
        changes = {old.encode(): new.encode() for old, new in changes.items()}

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                path = self.translate_path(self.path)
                if not os.path.isfile(path):
                    return self.send_error(404)
                with open(path, "rb") as file:
                    body = functools.reduce(lambda text, change: text.replace(*change), changes.items(), file.read())
                self.send_response(200)
                self.send_header("Content-Type", self.guess_type(path))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
