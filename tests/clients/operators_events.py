"""Events on the operators' page: those of a stream of the test, and those of a server."""

import asyncio

from operators_rig import Server, event_stream, shown


# As the server sends them, in pieces that end anywhere.
STREAM = """(() => {
  const event = (seq, fields) => `id: b00b-${seq}\\ndata: ${JSON.stringify({ boot: "b00b", seq, at: 1764198000123, ...fields })}\\n\\n`;
  const text = 'retry: 1000\\n\\ndata: {"type":"hello","boot":"b00b","seq":0,"oldest":1}\\n\\n' + event(1, { type: "lobby_opened", lobby: "chess" }) +
    event(2, { type: "joined", lobby: "chess", user: "<b>ann</b>", conn: "s1", role: "member" }) + ": keep-alive\\n\\n" +
    event(3, { type: "left", lobby: "chess", user: "zoë", conn: "s1", role: "member", reason: "kicked" }) + 'data: {"type":"lost","boot":"b00b","count":512}\\n\\n';
  const bytes = new TextEncoder().encode(text);
  globalThis.streams = [];
  const ask = fetch;
  globalThis.fetch = (path, options) => {
    if (path !== "events") return ask(path, options);
    streams.push(options.headers["Last-Event-ID"] ?? null);
    const pieces = streams.length > 1 ? [] : Array.from({ length: Math.ceil(bytes.length / 7) }, (_, at) => bytes.slice(at * 7, at * 7 + 7));
    return Promise.resolve(new Response(new ReadableStream({ start(to) {
      pieces.forEach((piece) => to.enqueue(piece));
      globalThis.more = to;
      options.signal.addEventListener("abort", () => to.error(options.signal.reason));
    } })));
  };
})()"""


async def events_are_shown_as_they_happen(rig):
    async with Server(rig.binary) as server:
        tab = await rig.browser.open("about:blank", allowed=["status of 404"])
        await tab.call("Page.addScriptToEvaluateOnNewDocument", source=STREAM)
        await tab.call("Page.navigate", url=server.page)
        await shown(tab, "#events ol", "512")
        lines = await tab.evaluate("[...document.querySelectorAll('#events li')].map((item) => item.textContent.trim())")
        assert lines[0].endswith("lost count 512"), lines
        assert lines[1].endswith("left chess zoë s1 kicked") and lines[2].endswith("joined chess <b>ann</b> s1"), lines
        await rig.show(tab, "events")
        # A stream that ends goes on after the last event, also after a pause.
        await tab.evaluate("more.close(), true")
        await tab.until("streams.length === 2 && streams[1] === 'b00b-3'")
        await tab.click("#hold")
        assert await tab.evaluate("document.querySelector('#hold').ariaPressed === 'true'")
        await asyncio.sleep(2.5)
        assert await tab.evaluate("streams.length") == 2
        await tab.click("#hold")
        await tab.until("streams.length === 3 && streams[2] === 'b00b-3'")
        # However many events there are, the page keeps the newest.
        many = "Array.from({ length: 1000 }, (_, n) => `id: b00b-${n}\\ndata: {\"type\":\"joined\",\"lobby\":\"x\",\"user\":\"u${n}\"}\\n\\n`).join('')"
        await tab.evaluate(f"more.enqueue(new TextEncoder().encode({many})), true")
        await shown(tab, "#events li", "u999")
        assert await tab.evaluate("document.querySelectorAll('#events li').length") == 200
        await tab.check()
        await tab.close()


async def events_of_the_server_are_shown(rig):
    async with Server(rig.binary) as server:
        if "error" in event_stream(server):
            return
        tab = await rig.open(server)
        await tab.until("!document.querySelector('#events').hidden")
        await server.join("chess", "ann")
        await shown(tab, "#events ol", "joined chess ann")
        await tab.check()
        await tab.close()


EVENTS = [events_are_shown_as_they_happen, events_of_the_server_are_shown]
