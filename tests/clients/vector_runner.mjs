// Runs the transcripts of tests/vectors/ against src/client/browser/lobby.js, in Node.js and in a page: with a fake clock, network and page.
// tests/vectors/README.md describes the steps.

const real = { setTimeout: globalThis.setTimeout, MessageChannel: globalThis.MessageChannel };
const START = 1_700_000_000_000;
/** Transcripts that are not run, and why. */
export const SKIPPED = { heartbeat: "pages have none: browsers run the timers of a hidden page rarely" };
const MESSAGE_EVENTS = ["move", "chat", "cursor", "snapshot", "message", "direct"];

/** Lets everything that is ready run: promises, and what they start. */
const turn = () => new Promise((resolve) => {
  const { port1, port2 } = new real.MessageChannel();
  port1.onmessage = () => { port1.close(); port2.close(); resolve(); };
  port2.postMessage(null);
});

class FakeClock {
  now = START;
  timers = new Map();
  number = 0;

  // As in browsers, a wait that does not fit into 32 bits is none.
  set = (action, ms = 0) => {
    this.timers.set(++this.number, { due: this.now + (ms >= 0 && ms < 2 ** 31 ? ms : 0), action });
    return this.number;
  };

  clear = (id) => void this.timers.delete(id);

  next(until) {
    let first = null;
    for (const [id, { due }] of this.timers) if (due <= until && (first === null || due < this.timers.get(first).due)) first = id;
    return first;
  }

  async advance(ms) {
    const until = this.now + ms;
    await turn();
    for (let id; (id = this.next(until)) !== null; await turn()) {
      const { due, action } = this.timers.get(id);
      this.timers.delete(id);
      this.now = Math.max(this.now, due);
      action();
    }
    this.now = until;
  }
}

class FakeSocket {
  readyState = 0;
  bufferedAmount = 0;
  closedWith = undefined;

  constructor(network, url, protocols) {
    Object.assign(this, { url: new URL(url), protocols });
    network.sockets.push(this);
    this.network = network;
  }

  open() {
    this.readyState = 1;
    this.onopen({});
  }

  send(data) {
    if (this.readyState === 1) this.network.heard(JSON.parse(data));
  }

  close(code) {
    if (this.readyState < 2) this.closedWith = code ?? null;
    this.readyState = 3;
  }

  end(code, reason) {
    this.readyState = 3;
    this.onclose?.({ code, reason });
    this.onerror?.({});
  }
}

/** All globals that the client uses. `restore` undoes it. */
class World {
  clock = new FakeClock();
  sockets = [];
  said = [];
  pings = [];
  random = 0.5;
  hidden = false;
  // `stream`: POSTs are answered with this status.
  postStatus = 202;

  constructor() {
    const world = this;
    class WebSocket extends FakeSocket {
      constructor(url, protocols) {
        super(world, url, protocols);
        // As browsers do.
        if (this.url.hash) throw new SyntaxError("a fragment");
      }
    }
    class EventSource extends FakeSocket {
      constructor(url) { super(world, url, null); }
      // It would connect again by itself.
      end() {
        this.readyState = 0;
        this.onerror({});
      }
    }
    this.kinds = { WebSocket, EventSource };
    const storage = new Map();
    const values = {
      setTimeout: this.clock.set, clearTimeout: this.clock.clear, WebSocket, EventSource,
      fetch: async (url, { method, body } = {}) => {
        if (!method) return this.get(new URL(url));
        if (method !== "POST" || !new URL(url).pathname.startsWith("/sse/")) throw new Error(`${method} ${url}`);
        if (!this.postStatus) await new Promise((resolve) => (this.answerPosts = resolve));
        if (this.postStatus === 202) for (const line of body.split("\n")) this.heard(JSON.parse(line));
        return { status: this.postStatus };
      },
      reportError: (error) => { this.reported ??= error; },
      addEventListener: (...values) => this.page.addEventListener(...values),
      sessionStorage: {
        getItem: (key) => storage.get(key) ?? null,
        setItem: (key, value) => void storage.set(key, value),
        removeItem: (key) => void storage.delete(key),
      },
    };
    this.page = new EventTarget();
    this.undo = Object.entries(values).map(([name, value]) => replace(globalThis, name, value));
    this.undo.push(replace(Date, "now", () => this.clock.now), replace(performance, "now", () => this.clock.now - START));
    this.undo.push(replace(Math, "random", () => this.random));
    if (globalThis.document) this.undo.push(replace(globalThis.document, "hidden", undefined, () => this.hidden));
    else this.undo.push(replace(globalThis, "document", { get hidden() { return world.hidden; } }));
  }

  /** The answer to a GET. */
  get(url) {
    if (!this.answer) throw new Error(`GET ${url}`);
    const { url: wanted, status = 200, body } = this.answer;
    this.answer = null;
    equal(String(url), wanted, "the address");
    return { ok: status === 200, status, json: async () => body };
  }

  restore() {
    for (const undo of this.undo.reverse()) undo();
  }

  heard(message) {
    if (message.type === "ping" && typeof message.ref === "string") this.pings.push(message.ref);
    else this.said.push(message);
  }
}

function replace(target, name, value, get) {
  const before = Object.getOwnPropertyDescriptor(target, name);
  Object.defineProperty(target, name, get ? { get, configurable: true } : { value, configurable: true, writable: true });
  return () => {
    delete target[name];
    if (before) Object.defineProperty(target, name, before);
  };
}

const sorted = (value) => value && typeof value === "object" && !Array.isArray(value)
  ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, inner]) => [name, sorted(inner)]))
  : Array.isArray(value) ? value.map(sorted) : value;
const text = (value) => JSON.stringify(sorted(value)) ?? String(value);
function equal(got, wanted, what) {
  if (text(got) !== text(wanted)) throw new Error(`${what}: ${text(got)} instead of ${text(wanted)}`);
}

/** One run of one transcript. */
class Run {
  events = [];
  outcomes = new Map();
  bound = {};
  socket = null;

  constructor(world, Lobby) {
    Object.assign(this, { world, Lobby });
  }

  async step(step) {
    const { world } = this;
    if (!("client" in step) && world.said.length) throw new Error(`the client said ${text(world.said[0])}`);
    if (!("opens" in step) && !("network" in step) && world.sockets.length > (step.socket ?? 0)) {
      throw new Error(`the client opened ${world.sockets[0].url}`);
    }
    if (world.reported && !("reports" in step)) throw world.reported;
    const name = Object.keys(step).find((key) => key !== "note");
    if (!(name in this)) throw new Error(`there is no step "${name}"`);
    await this[name](step[name], step);
    await turn();
  }

  // ---- what the application does ----

  async do(action, step) {
    const { lobby } = this;
    if (action === "join") this.join(step);
    else if (action === "list") this.list(step);
    else if (action === "find") this.outcome(step.id, this.Lobby.find(step.url, step.filters));
    else if (action === "request") this.outcome(step.id, lobby.request(step.type, step.payload, step.timeout && { timeout: step.timeout }));
    else if (action === "set") this.outcome(step.id, this.set(step));
    else if (["kick", "unban", "handOver", "configure"].includes(action)) {
      const { do: _, id, with: [first, ...others] } = step;
      this.outcome(id, lobby[action](this.member(first) ?? first, ...others));
    }
    else if (action === "send") equal(lobby.send(step.type, step.payload), step.sent, "send()");
    else if (action === "leave") lobby.leave();
    else if (action === "reload") {
      // In the order of browsers.
      world_event(this.world, "pagehide");
      this.event("hidden");
      this.world.hidden = false;
      this.world.sockets.length = 0;
      this.world.clock.timers.clear();
      this.world.page = new EventTarget();
      this.join({ url: this.lobby.url });
    } else throw new Error(`nobody can do ${action}`);
  }

  join({ listener, url = "ws://lobby.example/ws/chess", tokenless = 0 }) {
    let tokens = 0;
    const lobby = this.lobby = new this.Lobby(url, { token: () => (++tokens > tokenless ? `token ${tokens}` : undefined) });
    if (listener === "throws") lobby.on("move", () => { throw new Error("of a listener"); });
    if (listener === "leaves first") lobby.on("leave", () => lobby.leave());
    for (const name of ["join", "leave", "away", "back", "gap"]) {
      lobby.on(name, (who, why) => this.events.push([name, ...(who ? [who.user] : []), ...(why ? [why] : [])]));
    }
    for (const name of MESSAGE_EVENTS) {
      lobby.on(name, (data, { from, type, isDirect }) =>
        this.events.push([isDirect ? "direct" : "message", from, type === null ? data : { type, ...data }]));
    }
    for (const name of ["data", "host", "settings", "countdown", "start"]) lobby.on(name, (...values) => this.events.push(this.told(name, values)));
    if (listener === "leaves") lobby.on("leave", () => lobby.leave());
    lobby.connect();
  }

  /** An event of lobby control; without it, these are types of the game. */
  told(name, [first, meta, about]) {
    if (meta && "isDirect" in meta) return ["typed", meta.from, { type: name, ...first }];
    if (name === "data") return [name, first, meta === null ? null : meta.user ?? "nobody", about.by];
    if (name === "settings") return [name, first, meta.by];
    if (name === "start") return [name, first.map(({ user }) => user)];
    return [name, name === "host" ? first?.user ?? null : first];
  }

  list({ url = "ws://lobby.example/ws/~lobbies", filters }) {
    const list = this.lobby = this.Lobby.list(url, filters);
    list.on("lobbies", (lobbies, more) => this.events.push(["lobbies", lobbies.map(({ code }) => code), more]));
  }

  /** The member in a text like `@bob`, or undefined. */
  member(text) {
    return [...this.lobby.members.values()].find(({ user }) => `@${user}` === text);
  }

  /** `of`: whose data, with the method of the lobby or that of the member. */
  set({ data, of, if: seq, by = "lobby" }) {
    return by === "member" ? this.member(of).set(data, { if: seq }) : this.lobby.set(data, { of: this.member(of) ?? of, if: seq });
  }

  outcome(id, promise) {
    this.outcomes.set(id, null);
    promise.then(
      (ack) => this.outcomes.set(id, { ack }),
      ({ code, details: { seq, data } }) => this.outcomes.set(id, { error: code, ...(code === "conflict" && { seq, data }) }));
  }

  // ---- the network ----

  opens({ origin = "//lobby.example", path, query = {}, without = [], kind = "WebSocket", token }, { accepts = true }) {
    const { world } = this;
    this.former = this.socket;
    const socket = this.socket = world.sockets.shift();
    if (!socket) throw new Error("the client opened no connection");
    if (!(socket instanceof world.kinds[kind])) throw new Error(`it is no ${kind}`);
    equal(socket.url.pathname, path ?? (kind === "WebSocket" ? "/ws/chess" : "/sse/chess"), "the path");
    const { protocol, host } = new URL(origin, "ws://lobby.example");
    equal(socket.url.protocol.replace("http", "ws"), protocol, "the protocol");
    equal(socket.url.host, host, "the host");
    for (const [name, value] of Object.entries(query)) equal(socket.url.searchParams.get(name), this.value(value), `?${name}`);
    for (const name of without) equal(socket.url.searchParams.get(name), null, `?${name}`);
    const bearer = socket.protocols?.find((name) => name.startsWith("base64url.bearer.lobby."));
    const sent = socket.url.searchParams.get("token") ?? (bearer && atob(bearer.split(".").at(-1)));
    if (token !== undefined) equal(sent, token, "the token");
    if (socket.protocols) equal(socket.protocols[0], "lobby.v1.json", "the first subprotocol");
    if (accepts) socket.open();
  }

  /** What the next GET must ask, and its answer. Stands before the step that asks. */
  answers(answer) {
    this.world.answer = answer;
  }

  /** Binds a name at its first use. */
  value(wanted) {
    if (typeof wanted !== "string" || !wanted.startsWith("$")) return wanted === null ? null : String(wanted);
    if (!(wanted in this.bound)) {
      const session = this.socket.url.searchParams.get("session");
      if (!/^[\w-]{16,64}$/.test(session)) throw new Error(`?session is ${session}`);
      if (Object.values(this.bound).includes(session)) throw new Error("the session is not a new one");
      this.bound[wanted] = session;
    }
    return this.bound[wanted];
  }

  network(event, { code = 1006, reason = "", status }) {
    if (event === "drops") this.socket.end(code, reason);
    else if (event === "former ends") {
      this.former.onmessage({ data: JSON.stringify({ type: "message", from: "bob", seq: 99, data: "late" }) });
      this.former.end(code, reason);
    }
    else if (event === "fails") {
      this.socket = this.world.sockets.shift() ?? this.socket;
      this.socket.end(1006, "");
    } else if (event === "posts") {
      this.world.postStatus = status;
      this.world.answerPosts?.();
    }
    else throw new Error(`the network has no event ${event}`);
  }

  server(message) {
    const data = JSON.stringify(message).replaceAll("$ping", this.world.pings.at(-1));
    if (this.socket.readyState === 1) this.socket.onmessage({ data });
  }

  raw(data) {
    this.socket.onmessage({ data });
  }

  client(message) {
    if (message.type === "ping" && message.ref === undefined) {
      if (!this.world.pings.length) throw new Error("the client sent no ping");
      return;
    }
    equal(this.world.said.shift(), message, "the client's message");
  }

  silent() {
    this.world.pings.length = 0;
  }

  pings(number) {
    equal(this.world.pings.length, number, "the number of pings");
  }

  closes({ code = null } = {}) {
    equal(this.socket.closedWith, code, "the code of the client's close");
  }

  // ---- time and page ----

  async clock(ms) {
    await this.world.clock.advance(ms);
  }

  random(value) {
    this.world.random = value;
  }

  /** Nothing runs for a while. Overdue timers run first, then what has arrived meanwhile. */
  async sleep(ms, { arrived = [] }) {
    this.world.clock.now += ms;
    await this.world.clock.advance(0);
    for (const message of arrived) this.server(message);
  }

  event(name) {
    const { world } = this;
    if (name === "hidden" || name === "visible") world.hidden = name === "hidden";
    world_event(world, { hidden: "visibilitychange", visible: "visibilitychange", kept: "pagehide" }[name] ?? name, name === "kept");
  }

  // ---- what the application sees ----

  state(state) {
    equal(this.lobby.state, state, "the state");
  }

  hears(events) {
    equal(this.events.splice(0), events, "the events");
  }

  settled({ id, ...outcome }) {
    const got = this.outcomes.get(id);
    equal(got?.ack && outcome.ack ? { ack: got.ack } : got, outcome, `the request ${id}`);
  }

  pending(ids) {
    for (const id of ids) equal(this.outcomes.get(id), null, `the request ${id}`);
  }

  members(members) {
    equal([...this.lobby.members.values()].map(({ user, away }) => user + (away ? " (away)" : "")), members, "the members");
  }

  /** Fields of the lobby; `host`: its user, `members`: the data of members that have some, by user. */
  knows({ host, members, why, ...fields }) {
    const { lobby } = this;
    if (host !== undefined) {
      equal(lobby.host?.user ?? null, host, "the host");
      equal([...lobby.members.values()].filter((who) => who.host).map(({ user }) => user), host === null ? [] : [host], "members that are host");
    }
    const dataOf = () => [...lobby.members.values()].filter(({ data }) => Object.keys(data).length).map(({ user, data }) => [user, data]);
    if (members) equal(Object.fromEntries(dataOf()), members, "data of members");
    if (why !== undefined) equal(lobby.why && { code: lobby.why.code, reason: lobby.why.reason }, why, "why");
    if (fields.me) equal(lobby.me, lobby.members.get(lobby.welcome.conn), "the own member");
    for (const [name, value] of Object.entries(fields)) equal(name === "me" ? lobby.me?.user ?? null : lobby[name], value, name);
  }

  async ready(outcome) {
    const got = await this.lobby.ready.then(() => "resolved", ({ code }) => code);
    equal(got, outcome, "ready");
  }

  latency(ms) {
    equal(this.lobby.latency, ms, "the latency");
  }

  reports() {
    if (!this.world.reported) throw new Error("no error was reported");
    this.world.reported = null;
  }
}

function world_event(world, type, persisted = false) {
  world.page.dispatchEvent(Object.assign(new Event(type), { persisted }));
}

/** Runs a transcript. Returns "" or what is wrong. */
export async function runVector({ steps }, Lobby) {
  const world = new World();
  const run = new Run(world, Lobby);
  let index = -1;
  try {
    for (index of steps.keys()) await run.step(steps[index]);
    if (world.reported) throw world.reported;
    if (world.said.length || world.sockets.length) throw new Error("the client goes on after the last step");
    return "";
  } catch (error) {
    return `step ${index + 1} ${text(steps[index])}: ${error.message}`;
  } finally {
    run.lobby?.leave();
    world.restore();
  }
}
