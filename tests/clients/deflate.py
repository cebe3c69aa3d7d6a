"""Real clients that take compressed messages, on a lobbyd with the feature `deflate`. Started by `run`.

    tests/clients/run --deflate path/to/lobbyd

The claims of suite.py with Python's `websockets` and npm's `ws`; long messages in both directions between them; and a page in Chromium, which
offers compression by itself. The server's statistics say that the messages were compressed.
"""

import asyncio
import itertools
import json
import os
import re
import sys
import tempfile
import time

from browser import chromium
from lobbyd import Lobbyd, default_binary
from peers import Node, Python
from suite import PAIRED, Tally, close_all, open_pair, title

SECONDS = 60        # limit for what happens in the background
OPTIONS = ["--deflate", "on", "--stats-interval", "1s", "--log", "info"]


def snapshot(count):
    return [{"id": f"player{n}", "x": n * 7 % 100, "y": n * 13 % 100, "name": "zoë"} for n in range(count)]


async def counted(server, name, least):
    """Waits until the statistics in the log count at least so many."""
    end = time.monotonic() + SECONDS
    while True:
        counts = [int(count) for count in re.findall(rf"\b{name}=(\d+)", server.log())]
        if counts and counts[-1] >= least:
            return
        assert time.monotonic() < end, f"{name} is below {least}: {counts[-1:]}"
        await asyncio.sleep(0.1)


async def long_messages_are_compressed_both_ways(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    for count in 10, 100, 400:
        data = snapshot(count)
        await ann.say("broadcast", data=data)
        await bob.expect("message", data=data, **{"from": ann.user})
        await bob.say("direct", to=ann.user, data=data)
        await ann.expect("direct", data=data, **{"from": bob.user})
    blob = os.urandom(2000) + bytes(2000)
    await ann.send(blob)
    await bob.expect_binary(blob)
    await close_all(ann, bob)


async def a_page_speaks_compressed(binary):
    page = """<!doctype html><script>
        const socket = new WebSocket("ws://127.0.0.1:%d/ws/page?token=chromium");
        socket.onmessage = (event) => {
            const message = JSON.parse(event.data);
            if (message.type === "presence_state") {
                socket.send(JSON.stringify({ type: "broadcast", data: { extensions: socket.extensions, more: "x".repeat(3000) } }));
            }
            if (message.type === "message") socket.send(JSON.stringify({ type: "broadcast", data: message.data }));
        };
    </script>"""
    with Lobbyd(binary, "--allowed-origin", "null", *OPTIONS) as server, tempfile.TemporaryDirectory() as folder:
        ann = await Python().open(server.url("page", "ann"))
        path = os.path.join(folder, "page.html")
        with open(path, "w", encoding="utf-8") as text:
            text.write(page % server.port)

        async def message():
            while (message := json.loads(await ann.next(SECONDS)))["type"] != "message":
                pass
            return message["data"]

        with chromium(f"file://{path}"):
            first = await message()
            assert first["extensions"].startswith("permessage-deflate; "), first["extensions"]
            assert len(first["more"]) == 3000
            data = snapshot(300)
            await ann.say("broadcast", data=data)
            assert await message() == data, "the page sends back what it has received"
            await counted(server, "compressed_frames", 3)
            await counted(server, "decompressed_messages", 2)


async def main(binary):
    tally, python, node = Tally(), Python(), Node()
    pairs = [(python, python), (node, node), (python, node), (node, python)]
    try:
        with Lobbyd(binary, *OPTIONS) as server:
            for libraries, claim in itertools.product(pairs, [*PAIRED, long_messages_are_compressed_both_ways]):
                await tally.check(title(claim, libraries), claim(server, *libraries))
            # 400 players are more than 16 KiB of JSON, and each pair has sent three snapshots and a blob.
            await tally.check("the broadcasts were compressed", counted(server, "compressed_frames", 4 * len(pairs)), 2 * SECONDS)
            await tally.check("the clients have compressed, too", counted(server, "decompressed_messages", 4 * len(pairs)), 2 * SECONDS)
        await tally.check(a_page_speaks_compressed.__name__, a_page_speaks_compressed(binary), 5 * SECONDS)
    finally:
        await node.stop()
    return tally.finish()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else default_binary())))
