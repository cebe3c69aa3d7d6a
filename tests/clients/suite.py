"""Tests of the lobbyd binary with real clients: Python's `websockets`, npm's `ws` and Chromium. Started by `run`."""

import asyncio
import itertools
import json
import re
import sys
import traceback

import browser
from lobbyd import Lobbyd, default_binary
from peers import Node, Python

CLAIM_SECONDS = 180

lobby_names = (f"lobby-{n}" for n in itertools.count(1))


async def enter(library, server, lobby, user):
    """Opens a client and reads its `welcome` and `presence_state`."""
    client = await library.open(server.url(lobby, user))
    client.user = user
    client.welcome = await client.expect("welcome", protocol=1, user=user, lobby=lobby)
    client.presence = await client.expect("presence_state")
    return client


async def open_pair(server, ann_library, bob_library):
    """Opens ann and bob in a lobby of their own. Both have received all presence messages."""
    lobby = next(lobby_names)
    ann = await enter(ann_library, server, lobby, f"ann-{lobby}")
    bob = await enter(bob_library, server, lobby, f"bob-{lobby}")
    await ann.expect("presence_diff", joins=[{"user": bob.user, "conn": bob.welcome["conn"]}], leaves=[])
    return ann, bob


async def close_all(*clients):
    for client in clients:
        await client.close()


# Claims about two users in a lobby; each runs with every pair of libraries.

async def broadcast_reaches_the_other_and_is_acknowledged(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    await ann.say("broadcast", data={"move": "e4"}, ref="first")
    first = await bob.expect("message", data={"move": "e4"}, **{"from": ann.user})
    await ann.expect("ack", ref="first", seq=first["seq"], delivered=1, dropped=0)
    await bob.say("broadcast", data=[1, None, "e5"], ref=2)
    second = await ann.expect("message", data=[1, None, "e5"], seq=first["seq"] + 1, **{"from": bob.user})
    await bob.expect("ack", ref=2, seq=second["seq"], delivered=1, dropped=0)
    await ann.say("broadcast", data="no ref")
    await bob.expect("message", data="no ref", seq=first["seq"] + 2)
    await ann.expect_quiet()
    await close_all(ann, bob)


async def direct_reaches_that_user_or_is_an_error(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    await ann.say("direct", to=bob.user, data={"psst": True}, ref="d")
    await bob.expect("direct", data={"psst": True}, **{"from": ann.user})
    await ann.expect("ack", ref="d")
    await bob.say("direct", to="nobody", data=0, ref="e")
    await bob.expect("error", ref="e", code="user_not_found")
    await ann.expect_quiet()
    await close_all(ann, bob)


async def any_other_type_is_relayed_whole(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    move = {"type": "move", "to": "e4", "deep": {"list": [1, 2.5, "x"]}}
    await ann.send(json.dumps(move))
    await bob.expect("message", data=move, **{"from": ann.user})
    await close_all(ann, bob)


async def unicode_arrives_unchanged(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    text = "Grüße, 世界, мир, 👩‍👩‍👧 \u2028 \u0000 \\ \" \t 𝄞"
    await ann.say("broadcast", data=text)
    await bob.expect("message", data=text)
    await bob.send(json.dumps({"type": "broadcast", "data": {text: text}}))     # as \u escapes
    await ann.expect("message", data={text: text})
    await close_all(ann, bob)


async def sixty_kilobytes_arrive_unchanged_both_ways(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    text = "0123456789" * 6000
    for sender, receiver in (ann, bob), (bob, ann):
        await sender.say("broadcast", data=text)
        await receiver.expect("message", data=text)
    await close_all(ann, bob)


async def binary_arrives_unchanged_both_ways(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    for sender, receiver in (ann, bob), (bob, ann):
        for blob in bytes(range(256)), b"", bytes(range(256)) * 234:
            await sender.send(blob)
            await receiver.expect_binary(blob)
    await ann.say("broadcast", data=1)
    await bob.expect("message", data=1, seq=bob.presence["seq"] + 1)    # binary frames use no seq
    await close_all(ann, bob)


async def pings_are_answered(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    for client in ann, bob:
        await client.ping(b"payload of a ping")
        await client.ping(bytes(range(125)))
        await client.say("ping", ref=1)
        pong = await client.expect("pong", ref=1)
        assert pong["server_time"] > 1_600_000_000_000, pong
        await client.expect_quiet()
    await close_all(ann, bob)


async def presence_reports_joins_and_leaves(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    seats = [{"user": c.user, "conn": c.welcome["conn"]} for c in (ann, bob)]
    assert ann.presence["users"] == seats[:1], ann.presence
    assert bob.presence["users"] == seats, bob.presence
    assert bob.presence["seq"] == ann.presence["seq"] + 1, (ann.presence, bob.presence)
    await bob.say("presence")
    await bob.expect("presence_state", users=seats, seq=bob.presence["seq"])
    await bob.say("leave")
    await bob.expect_goodbye(1000, "left")
    await ann.expect("presence_diff", joins=[], leaves=[seats[1] | {"reason": "left"}], seq=bob.presence["seq"] + 1)
    bob = await enter(libraries[1], server, ann.welcome["lobby"], bob.user)
    seat = {"user": bob.user, "conn": bob.welcome["conn"]}
    assert seat != seats[1], "a new join is a new seat"
    await ann.expect("presence_diff", joins=[seat], leaves=[])
    await bob.drop()
    await ann.expect("presence_diff", joins=[], leaves=[seat | {"reason": "dropped"}])
    await close_all(ann)


async def bad_messages_are_errors_and_the_connection_lives(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    for bad in '{"type":', "[1, 2]", '"text"', '{"no": "type"}', '{"type": 7}', "":
        await ann.send(bad)
        await ann.expect("error", code="bad_message")
    await bob.expect_quiet()
    await ann.say("broadcast", data="still here")
    await bob.expect("message", data="still here")
    await close_all(ann, bob)


async def a_message_over_the_limit_closes_with_1009(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    limit = ann.welcome["limits"]["max_message_bytes"]
    assert limit == 64 * 1024, ann.welcome
    fits = json.dumps({"type": "broadcast", "data": ""})
    await ann.send(fits.replace('""', '"' + "x" * (limit - len(fits)) + '"'))
    await bob.expect("message", data="x" * (limit - len(fits)))
    await bob.say("broadcast", data="x" * limit)
    await bob.expect_goodbye(1009)
    await ann.expect("presence_diff", joins=[])
    await close_all(ann)


async def a_newer_login_replaces_the_older_one(server, *libraries):
    ann, bob = await open_pair(server, *libraries)
    newer = await enter(libraries[1], server, ann.welcome["lobby"], bob.user)
    await bob.expect_goodbye(4004, "replaced")
    assert newer.welcome["conn"] == bob.welcome["conn"], "the seat stays the same"
    await ann.say("broadcast", data="to the newer one")
    await newer.expect("message", data="to the newer one")
    await ann.expect_quiet()
    await close_all(ann, newer)


PAIRED = [
    broadcast_reaches_the_other_and_is_acknowledged,
    direct_reaches_that_user_or_is_an_error,
    any_other_type_is_relayed_whole,
    unicode_arrives_unchanged,
    sixty_kilobytes_arrive_unchanged_both_ways,
    binary_arrives_unchanged_both_ways,
    pings_are_answered,
    presence_reports_joins_and_leaves,
    bad_messages_are_errors_and_the_connection_lives,
    a_message_over_the_limit_closes_with_1009,
    a_newer_login_replaces_the_older_one,
]


# Claims that need a separate server.

async def sigterm_says_goodbye_and_exits_with_0(binary, *libraries):
    with Lobbyd(binary) as server:
        clients = await open_pair(server, *libraries)
        server.terminate()
        for client in clients:
            goodbye = await client.expect_goodbye(1001, "server_shutdown")
            assert goodbye["reconnect"] is True, goodbye
            assert goodbye["retry_after_ms"] >= 0, goodbye
        code = await asyncio.to_thread(server.exit_code)
        assert code == 0, f"exit code {code}"


async def health_pings_report_answering_members(binary, *libraries):
    # Time enough for an answer on a busy machine.
    with Lobbyd(binary, "--health-interval", "4s", "--health-timeout", "4s") as server:
        ann, bob = [await enter(library, server, "checkup", user) for library, user in zip(libraries, ("ann", "bob"))]
        timestamps = [0]

        async def answer():
            while True:
                message = json.loads(await ann.next())
                if message["type"] != "health_ping":
                    continue                        # the join of bob
                timestamp = message["timestamp"]
                assert isinstance(timestamp, int) and timestamps[-1] < timestamp < 2**53, message
                timestamps.append(timestamp)
                await ann.say("health_pong", timestamp=timestamp)

        answering = asyncio.create_task(answer())
        await bob.expect("health_ping")             # bob does not answer
        await asyncio.to_thread(server.wait_for_log, r'user="bob".*\bunhealthy\b', 60)
        await asyncio.to_thread(server.wait_for_log, r'user="ann".*\bhealthy latency_ms=\d', 60)
        assert not re.search(r'user="ann".*\bunhealthy\b', server.log()), server.log()
        while len(timestamps) < 3 and not answering.done():
            await asyncio.sleep(0.05)
        assert not answering.done(), answering.exception()
        answering.cancel()
        await close_all(ann, bob)


ALONE = [sigterm_says_goodbye_and_exits_with_0, health_pings_report_answering_members]


class Tally:
    def __init__(self):
        self.passed = self.failed = 0

    def count(self, name, error=""):
        if error:
            self.failed += 1
            print(f"FAILED {name}\n    " + error.strip().replace("\n", "\n    "), flush=True)
        else:
            self.passed += 1
            print(f"ok     {name}", flush=True)

    def finish(self):
        """Prints the sums. Returns the exit code."""
        print(f"{self.passed} passed, {self.failed} failed")
        return 0 if self.passed and not self.failed else 1

    async def check(self, name, claim, seconds=CLAIM_SECONDS):
        try:
            await asyncio.wait_for(claim, seconds)
        except Exception as error:
            detail = str(error) if isinstance(error, AssertionError) and str(error) else traceback.format_exc(limit=-3)
            self.count(name, detail)
        else:
            self.count(name)


async def main(binary):
    tally = Tally()
    python, node = Python(), Node()
    pairs = [(python, python), (node, node), (python, node), (node, python)]
    try:
        with Lobbyd(binary) as server:
            for libraries, claim in itertools.product(pairs, PAIRED):
                await tally.check(title(claim, libraries), claim(server, *libraries))
        for claim, libraries in itertools.product(ALONE, [(python, node), (node, python)]):
            await tally.check(title(claim, libraries), claim(binary, *libraries))
        async for name, error in browser.results(binary):
            tally.count(f"{name} [chromium]", error)
    finally:
        await node.stop()
    return tally.finish()


def title(claim, libraries):
    return f"{claim.__name__} [{' + '.join(library.name for library in libraries)}]"


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else default_binary())))
