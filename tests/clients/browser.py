"""Runs `page.html` in headless Chromium against lobbyd and yields the results that the page reports."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tempfile

from lobbyd import Lobbyd

HERE = os.path.dirname(os.path.abspath(__file__))
# Switches off the lookups and connections that Chromium makes by itself: the tests use this machine only. The tests read numbers
# and times as pages in English show them.
FLAGS = ["--headless", "--lang=en-US", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PAGE_SECONDS = 300


async def results(binary):
    """Yields pairs of a claim's name and its error, "" if it passed."""
    page = await asyncio.create_subprocess_exec(
        "node", os.path.join(HERE, "page_server.js"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20)
    try:
        origin = (await asyncio.wait_for(page.stdout.readline(), 60)).decode().strip()
        # The page is served from another port than lobbyd's, so it has another origin. Origins of this machine are allowed unless
        # --allowed-origin is given.
        with Lobbyd(binary, "--max-per-lobby", 2) as plain, \
                Lobbyd(binary, "--allowed-origin", origin, "--max-connections", 1) as full, \
                Lobbyd(binary, "--health-interval", "8s", "--health-timeout", "8s") as health, \
                Lobbyd(binary, "--max-lifetime", "3s") as brief, \
                Lobbyd(binary, "--allowed-origin", "own") as strict:
            ports = {"plain": plain, "full": full, "health": health, "brief": brief, "strict": strict}
            address = f"{origin}/?" + "&".join(f"{name}={server.port}" for name, server in ports.items())
            async for result in visit(address, page.stdout):
                yield result
            yield "the page is reported healthy with a latency", error_of(
                lambda: health.wait_for_log(r'user="page".*\bhealthy latency_ms=\d', 60))
            yield "the log names the origin that is refused", error_of(
                lambda: strict.wait_for_log(rf"the origin {origin} is refused at 127", 60))
            yield "the page is never reported unhealthy", \
                "unhealthy in the log" if "unhealthy" in health.log() else ""
        yield "the page of the README connects when it is opened from a file", error_of(lambda: open_from_file(binary))
    finally:
        page.stdin.close()          # the page server exits at the end of its input
        await page.wait()


@contextlib.contextmanager
def chromium(address, *flags):
    """Shows a page until the end of the block, which gets the folder of the browser's profile."""
    # Its renderers may still write into the profile while it is deleted.
    with tempfile.TemporaryDirectory(prefix="lobbyd-chromium-", ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(["chromium", *FLAGS, *flags, f"--user-data-dir={profile}", address],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=os.environ | {"LANGUAGE": "en_US"}, start_new_session=True)
        try:
            yield profile
        finally:
            os.killpg(browser.pid, signal.SIGKILL)      # includes its renderers
            browser.wait()


def open_from_file(binary):
    """Does what the README says: saves its page, opens it, and lets the origin `null` connect."""
    with open(os.path.join(HERE, "../../README.md"), encoding="utf-8") as readme:
        page = readme.read().split("\n```html\n")[1].split("\n```")[0]
    with Lobbyd(binary, "--allowed-origin", "null") as server, tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "chat.html")
        with open(path, "w", encoding="utf-8") as file:
            file.write(page.replace("127.0.0.1:9001", f"127.0.0.1:{server.port}"))
        with chromium(f"file://{path}"):
            server.wait_for_log(r'user="guest-\w+" lobby=chat joined', PAGE_SECONDS)


async def visit(address, reports):
    """Opens the page and yields its reports until the last one."""
    with chromium(address):
        try:
            async with asyncio.timeout(PAGE_SECONDS):
                while line := await reports.readline():
                    report = json.loads(line)
                    if report.get("done"):
                        yield "the page ran to its end", ""
                        return
                    yield report["name"], report["error"]
            yield "the page ran to its end", "the page server ended"
        except TimeoutError:
            yield "the page ran to its end", f"not finished within {PAGE_SECONDS} s"


def error_of(check):
    try:
        check()
    except AssertionError as error:
        return str(error)
    return ""
