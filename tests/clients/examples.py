#!/usr/bin/env python3
"""Plays the examples with real clients, stops them with a signal, and replays what they recorded.

    tests/clients/run --examples [path/to/lobbyd]        the examples are in the folder `examples` next to it

Two windows of the arena's page, in Chromium, must be two players. Each example must say goodbye on SIGTERM or SIGINT, log the connects
and the closes, and end with 0. Exit 0 only if all checks pass.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request

from attempts import attempts
from browser import chromium
from lobbyd import Lobbyd, default_binary
from peers import Closed, Python

SECONDS = 180       # for playing one example; the browser needs most of them, on a busy machine

library = Python()


async def enter(server, user, lobby):
    """Opens a client of an example that speaks JSON."""
    client = await library.open(server.url(lobby, user))
    client.user = user
    await client.expect("welcome", user=user)
    return client


async def next_of(client, kind, is_wanted=lambda message: True):
    """Returns the next message of a type that fits, and skips the others."""
    while True:
        frame = await client.next()
        assert isinstance(frame, str), f"{client.user} waited for {kind}, got {frame}"
        message = json.loads(frame)
        if message["type"] == kind and is_wanted(message):
            return message


async def next_text(client, is_wanted):
    """Returns the next text that fits, and skips the others."""
    while True:
        text = await client.next()
        assert isinstance(text, str), f"waited for text, got {text}"
        if is_wanted(text):
            return text


async def arena(server):
    ann, bob = await enter(server, "ann", "arena"), await enter(server, "bob", "arena")
    both = await next_of(ann, "snapshot", lambda message: len(message["players"]) == 2)
    start = both["players"][0]["x"]
    await ann.say("input", dx=1 if start < 400 else -1, dy=0, fire=False)
    await next_of(bob, "snapshot", lambda message: abs(message["players"][0]["x"] - start) > 20)
    # The page is another address. A window without a name in its address chooses one.
    page = server.wait_for_log(r"open (http://\S+) in two windows", SECONDS).group(1)
    with urllib.request.urlopen(page, timeout=SECONDS) as answer:
        assert answer.status == 200 and b"<canvas" in answer.read()
    with contextlib.ExitStack() as windows:
        for _ in range(2):
            windows.enter_context(chromium(page))
        # One message may announce the joins of both. A client that is not read answers no pings: both are read.
        players = {ann: set(), bob: set()}
        while any(len(joined) < 2 for joined in players.values()):
            for client, joined in players.items():
                message = json.loads(await client.next())
                users = [join["user"] for join in message["joins"]] if message["type"] == "presence_diff" else []
                joined.update(user for user in users if user.startswith("player-"))
    return [ann, bob]


async def embed(server):
    ann = await library.open(server.url("arena", "ann"))
    start = int((await next_text(ann, lambda text: text.startswith("ann="))).removeprefix("ann="))
    await ann.send("left")
    await next_text(ann, lambda text: text == f"ann={start - 1}")
    return [ann]


async def lockstep(server):
    ann = await enter(server, "ann", "race")
    await next_of(ann, "state")
    first = (await next_of(ann, "tick"))["tick"]
    for attempt in attempts():
        # After a stall old ticks are still to be read, which are those before the answer.
        await ann.say("ping")
        await next_of(ann, "pong")
        # Inputs for ticks before the member joined are refused.
        now = (await next_of(ann, "tick", lambda message: message["tick"] > first + 3))["tick"]
        # One may be 40 ticks ahead, the other 10 ticks late: half a second. A stall of the machine may take longer.
        soon, past = now + 20, now - 1
        for meant in [soon, past]:
            await ann.say("input", tick=meant, dx=1)
        seen, refused = [], []
        while len(seen) + len(refused) < 2:
            message = json.loads(await ann.next())
            if message["type"] == "error":
                refused.append(message)
            elif message["type"] == "tick":
                seen += [(input["meant"], input["late"], message["tick"]) for input in message["inputs"]]
        attempt.check(not refused, f"refused: {refused}")
        # An input must be for a later tick than the one before.
        first = soon
        if not refused:
            early, late = sorted(seen, key=lambda input: input[1])
            attempt.check(early == (soon, 0, soon), f"the early input is late: {seen}, sent in tick {now}")
            assert late[0] == past and late[1] == late[2] - late[0] > 0, (seen, now)
    return [ann]


async def fixed_step(server):
    ann = await library.open(server.url("hall", "ann"))
    first = await next_text(ann, lambda text: "ann=" in text)
    await ann.send("right")
    await next_text(ann, lambda text: text.split("ann=")[1] != first.split("ann=")[1])
    return [ann]


async def goodbye(client):
    """Reads until the connection ends."""
    is_json, message = None, None
    while isinstance(frame := await client.next(), str):
        is_json, message = frame.startswith("{"), frame
    assert frame == Closed(1001, "server_shutdown"), frame
    if is_json:
        said = json.loads(message)
        assert said["type"] == "goodbye" and said["reason"] == "server_shutdown", said


async def play(server, game, stop):
    async with asyncio.timeout(SECONDS):
        clients = await game(server)
        os.kill(server.pid, stop)
        for client in clients:
            await goodbye(client)


def check(binary, game, stop, records):
    with tempfile.TemporaryDirectory(prefix="lobbyd-examples-") as folder:
        journal = os.path.join(folder, "session")
        with Lobbyd(binary, *(["--journal", journal] if records else [])) as server:
            asyncio.run(play(server, game, stop))
            code = server.exit_code(SECONDS)
            assert code == 0, f"it ended with {code}:\n{server.log()[-2000:]}"
            for words in ['user="ann"', ' joined', "server_shutdown"]:
                assert words in server.log(), f"{words} is not in the log:\n{server.log()[-2000:]}"
        refused = subprocess.run([binary, "--listen", "nowhere"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        name = os.path.basename(binary)
        # One sentence: a debug dump has braces.
        assert refused.returncode == 1 and re.fullmatch(rf"{name}: [^\n{{}}]+\n", refused.stderr), refused
        if records:
            replayed = subprocess.run([binary, "--replay", journal], stdin=subprocess.DEVNULL, capture_output=True, text=True)
            assert replayed.returncode == 0, f"the replay failed:\n{replayed.stdout[-500:]}{replayed.stderr}"
            assert 'user="ann"' in replayed.stdout and "turns confirmed" in replayed.stdout, replayed.stdout[-2000:]


def main():
    folder = os.path.join(os.path.dirname(sys.argv[1] if len(sys.argv) > 1 else default_binary()), "examples")
    failed = 0
    for game, stop, records in [
        (arena, signal.SIGTERM, True), (embed, signal.SIGINT, False),
        (lockstep, signal.SIGTERM, True), (fixed_step, signal.SIGINT, True),
    ]:
        binary = os.path.join(folder, game.__name__)
        try:
            check(binary, game, stop, records)
            print(f"ok     {game.__name__}", flush=True)
        # Also what a library raises, such as for a closed connection: the next example is played all the same.
        except Exception as error:
            failed += 1
            print(f"FAILED {game.__name__}: {error!r}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
