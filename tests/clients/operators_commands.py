"""Commands of the operators' page: each is clicked, and seen at the members or in the statistics."""

import asyncio

from operators_rig import GONE, MESSAGE, Server, absent, close_with, confirm, noted, press, shown, text_of, type_key, until
from tabs import SECONDS


async def commands_about_a_lobby_are_clicked(rig):
    async with Server(rig.binary) as server:
        ann, bob = [await server.join("chess", user) for user in ("ann", "bob")]
        tab = await rig.open(server, "#lobby/chess")
        await press(tab, "#view", "Publish…")
        await confirm(tab, message="not JSON")
        await shown(tab, "#ask-problem", "This is not JSON")
        await rig.show(tab, "ask")
        await confirm(tab, message=MESSAGE)
        # Digits beyond those of a double are not lost.
        for member in ann, bob:
            await member.hears("message", f'"data":{MESSAGE}')
        await noted(tab, "Publish to chess: 2 queued, 0 dropped, seq 2")
        await press(tab, "#view", "Publish…")
        await confirm(tab, message="plain", kind="text")
        await noted(tab, "the members speak JSON")
        # Cancelled, by the button and by the key: nothing happens.
        for cancel in "document.querySelector('#ask [value=cancel]').click()", None:
            await press(tab, "#view", "Close…")
            await tab.until("document.querySelector('#ask').open")
            if cancel:
                await tab.evaluate(cancel)
            else:
                await type_key(tab, "Escape")
            await tab.until("!document.querySelector('#ask').open")
        assert server.ask("/lobbies/chess")["members"] == 2
        await press(tab, "#view", "Lock…")
        await confirm(tab)
        await noted(tab, "Lock chess: done")
        await shown(tab, "#view h2", "locked")
        cid = await server.join("chess", "cid")
        assert await cid.closed() == 4002
        await press(tab, "#view", "Unlock…")
        await confirm(tab)
        await noted(tab, "Unlock chess: done")
        await tab.until(f"!{text_of('#view h2')}.includes('locked')")
        cid = await server.join("chess", "cid")
        await tab.until("document.querySelectorAll('#view tbody tr').length === 3")
        # The button in the row of a member.
        await tab.evaluate("[...document.querySelectorAll('#view tbody tr')].find((row) => row.textContent.startsWith('cid')).querySelector('button').click()")
        await shown(tab, "#ask-title", "Kick cid")
        await confirm(tab)
        assert await cid.closed() == 4003
        await close_with(tab, "Ask to reconnect…", 4103, ann, bob)
        await noted(tab, "connections to close: 2")
        await close_with(tab, "Kick all…", 4003, await server.join("chess", "ann"))
        eve = await server.join("chess", "eve")
        await tab.until("document.querySelectorAll('#view tbody tr').length === 1")
        await close_with(tab, "Close…", 4006, eve)
        await absent(tab, "lobby")
        await tab.check()
        await tab.close()


async def commands_about_a_user_are_clicked(rig):
    async with Server(rig.binary, "--max-per-user", "3") as server:
        ann = await server.join("chess", "ann")
        tab = await rig.open(server)
        await tab.evaluate("document.querySelector('#user').value = 'ann', document.querySelector('#find').requestSubmit()")
        await press(tab, "#view", "Ping")
        await tab.until(f"/Ping ann: [0-9.]+ (µs|ms)/.test({text_of('#done ol')})")
        await press(tab, "#view", "Send…")
        await confirm(tab, message='"psst"')
        await ann.hears("direct", '"data":"psst"')
        await close_with(tab, "Ask to reconnect…", 4103, ann)
        ann = await server.join("go", "ann")
        await tab.until("document.querySelector('#view tbody a')?.textContent === 'go'")
        await close_with(tab, "Kick…", 4003, ann)
        await absent(tab, "user")
        await tab.check()
        await tab.close()


async def commands_about_the_server_are_clicked(rig):
    async with Server(rig.binary, "--tick-hz", "50") as server:
        ann, bob = await server.join("chess", "ann"), await server.join("go", "bob")
        tab = await rig.open(server)
        await press(tab, "#all", "Publish to all…")
        await confirm(tab, message=MESSAGE)
        for member in ann, bob:
            await member.hears("message", MESSAGE)
        await noted(tab, "Publish to all lobbies: 2 lobbies, 2 queued, 0 dropped")
        await press(tab, "#clock", "Pause the clock…")
        await confirm(tab)
        await until(lambda: server.ask("/stats")["ticks"]["paused"], "the clock is paused")
        await shown(tab, "#tick", "paused")
        await rig.show(tab, "clock")
        before = server.ask("/stats")["ticks"]["tick"]
        await tab.evaluate("document.querySelector('#clock input').value = 7, true")
        await press(tab, "#clock", "Step")
        await until(lambda: server.ask("/stats")["ticks"]["tick"] == before + 7, "seven ticks have run")
        await tab.evaluate("document.querySelectorAll('#clock input')[1].value = 4, true")
        await press(tab, "#clock", "Slow down…")
        await confirm(tab)
        await until(lambda: server.ask("/stats")["ticks"]["slowdown"] == 4, "the clock is slower")
        await press(tab, "#clock", "Resume the clock")
        await until(lambda: not server.ask("/stats")["ticks"]["paused"], "the clock runs")
        await shown(tab, "#tick", "4 times slower")
        await press(tab, "#all", "Ask all to reconnect…")
        await confirm(tab, word="kick")
        await shown(tab, "#ask-problem", "Type reconnect, or cancel.")
        assert server.ask("/stats")["total_connections"] == 2
        await confirm(tab, word="reconnect")
        assert [await ann.closed(), await bob.closed()] == [4103, 4103]
        ann = await server.join("chess", "ann")
        await press(tab, "#all", "Kick everybody…")
        await confirm(tab, word="kick")
        assert await ann.closed() == 4003
        await press(tab, "#all", "Drain…")
        await confirm(tab, word="")
        await shown(tab, "#ask-problem", "Type drain, or cancel.")
        assert server.ask("/stats")["drain"] is None
        tab.allowed = GONE
        await confirm(tab, word="drain")
        await shown(tab, "#done", "Drain: draining")
        assert await asyncio.to_thread(server.exit_code, SECONDS) == 0
        await shown(tab, "#state", "the server does not answer; asked again after")
        await rig.show(tab, "away")
        await tab.close()


async def a_dialog_that_follows_another_at_once_is_not_cancelled_by_it(rig):
    async with Server(rig.binary) as server:
        ann = await server.join("chess", "ann")
        tab = await rig.open(server, "#lobby/chess")
        await press(tab, "#view", "Lock…")
        await tab.until("document.querySelector('#ask').open")
        # In one task: the browser reports that the first dialog is closed after the second one is open.
        await tab.evaluate("document.querySelector('#ask .main').click(), [...document.querySelectorAll('#view button')].find((one) => one.textContent === 'Kick all…').click()")
        await noted(tab, "Lock chess: done")
        await shown(tab, "#ask-title", "Kick chess")
        await confirm(tab)
        assert await ann.closed() == 4003
        await tab.check()
        await tab.close()


COMMANDS = [
    commands_about_a_lobby_are_clicked,
    commands_about_a_user_are_clicked,
    commands_about_the_server_are_clicked,
    a_dialog_that_follows_another_at_once_is_not_cancelled_by_it,
]
