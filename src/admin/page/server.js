// A publication to all lobbies, which takes a while.
let job = null;

async function publishToAll() {
  const text = "All members get this as a message from the server, except those of lobbies that are created meanwhile.";
  const message = job ? null : await ask({ title: ["Publish to all lobbies"], verb: "Publish", message: true, text });
  if (message === null) return;
  let [done, queued, dropped, refused, after, why] = [0, 0, 0, 0, undefined, ""];
  const body = `{${message},"idempotency_key":"${newKey()}"}`;
  job = { stop: () => (why = "stopped; ") };
  show("#job", true);
  const one = async ({ lobby }) => {
    try {
      const answer = await call(`lobbies/${segment(lobby)}/publish`, body);
      done += 1;
      queued += answer.queued;
      dropped += answer.dropped;
    } catch (error) {
      if (!error.status || error.status === 401) throw error;
      // A lobby that has ended meanwhile was not missed.
      if (error.status !== 404) refused += 1;
    }
  };
  try {
    while (after !== null && !why) {
      const { lobbies, next } = await call(`lobbies?${query({ limit: 1000, after })}`);
      while (lobbies.length && !why) {
        await Promise.all(lobbies.splice(0, PUBLISH_AT_ONCE).map(one));
        set($("#job span"), `Published to ${count(done)} lobbies`);
      }
      after = next;
    }
  } catch (error) {
    why = `ended early: ${error.message}; `;
  }
  job = null;
  show("#job", false);
  note(why || refused ? "bad" : "", `Publish to all lobbies: ${why}${count(done)} lobbies, ${sent({ queued, dropped })}${refused ? `, refused by ${refused}` : ""}`);
}
$("#job button").onclick = () => job?.stop();

$("#all").append(
  button("Publish to all…", publishToAll),
  action("Ask all to reconnect…", null, "kick", { reconnect: true }, { text: RECONNECTED, word: "reconnect", outcome: closing }),
  action("Kick everybody…", null, "kick", { reconnect: false }, { text: KICKED, word: "kick", outcome: closing, ...danger }),
  action("Drain…", null, "drain", {}, { text: "Closes all members and ends the process, as SIGTERM does. This cannot be undone.", word: "drain", outcome: ({ status }) => status, id: "drain", ...danger }),
);

const field = (label, max) => el("input", { type: "number", min: 1, max, value: 1, ariaLabel: label, title: label });
const [steps, factor] = [field("Ticks of a step, 1 to 100", 100), field("How many times slower, 1 to 1000", 1000)];
const outcome = ({ tick, paused, slowdown }) => `tick ${tick}, ${paused ? "paused" : "running"}, slowdown ${slowdown}`;
// The value tells in which state of the clock a button is disabled.
$("#clock .buttons").append(
  action("Pause the clock…", null, "clock/pause", {}, { value: "false", outcome, text: "No tick runs until the clock is resumed." }),
  action("Resume the clock", null, "clock/resume", {}, { value: "true", outcome }),
  action("Step", null, "clock/step", () => `{"ticks":${Number(steps.value)}}`, { value: "true", outcome }),
  steps,
  action("Slow down…", null, "clock/slow", () => `{"factor":${Number(factor.value)}}`, { outcome, text: "The clock runs as many times slower as the field says." }),
  factor,
);

// The stream that is being read, and what was read from it.
let follower = null;
let isOffered = true;
let lastId = null;
let isHeld = false;

async function follow() {
  if (follower || !isOffered || isHeld || document.hidden) return;
  const mine = (follower = new AbortController());
  try {
    const response = await fetch("events", request(lastId && { "Last-Event-ID": lastId }, mine.signal));
    isOffered = response.status !== 404;
    if (!response.ok) return;
    show("#events", true);
    set($("#following"), "");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { value, done } = await reader.read();
      if (done || mine.signal.aborted) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      blocks.forEach(readEvent);
    }
  } catch {
    // The next poll continues after the last event.
  } finally {
    mine.abort();
    if (follower === mine) follower = null;
    set($("#following"), isHeld ? "" : "interrupted");
  }
}

function readEvent(block) {
  const of = (key) => block.split("\n").find((text) => text.startsWith(`${key}: `))?.slice(key.length + 2);
  const event = JSON.parse(of("data") ?? '{"type":"hello"}');
  lastId = of("id") ?? lastId;
  if (event.type === "hello") return;
  const { boot, seq, at, type, lobby, user, conn, role, ...rest } = event;
  const more = Object.entries(rest).map(([key, value]) => (key === "reason" ? value : `${key} ${value}`));
  const nodes = [at && time(at), type, lobby && link("lobby", lobby), user && link("user", user), conn, role === "watch" && "watches", ...more];
  line($("#events ol"), el("li", { className: type === "lost" ? "bad" : "" }, ...nodes.filter(Boolean).flatMap((node) => [node, " "])));
}

$("#hold").onclick = ({ target }) => {
  isHeld = !isHeld;
  target.ariaPressed = String(isHeld);
  if (isHeld) follower?.abort();
  else follow();
};

route();
poll();
