// The client of lobbyd: a member of a lobby that comes back to its seat when its connection is lost. No dependency, no build step.
// README.md describes the API, and src/guide/protocol.md the messages.
//
//     idle --connect()--> connecting --welcome, list--> open --lost--> waiting --time--> connecting --> …
//     each of them --leave(), or a close that says not to come back--> closed

// Longest time from the request for a token to the welcome. The server itself allows 10 s for authorization.
const CONNECT_MS = 15_000;
const PROBE_MS = 3_000;
const REQUEST_MS = 10_000;
// The backoff begins anew after so long a connection.
const STABLE_MS = 5_000;
const AWAY_MS = 30_000;
// The server allows so many unanswered requests of a session.
const MAX_IN_FLIGHT = 16;
const MAX_KEPT = 64;
// Bytes of the requests that are kept, and those that a connection may buffer before volatile messages are dropped.
const MAX_BYTES = 65_536;
const MAX_UNREAD = 1_000;
// Events that are not named after a type of messages.
const EVENTS = ["join", "leave", "away", "back", "members", "gap", "connection", "error", "message", "direct", "binary"];
// The event of every message, for iterators.
const ANY = Symbol("any");

/** `code` is the reason word of a close, the code of an `error` of the server, or a code of this client. */
export class LobbyError extends Error {
  constructor(code, message = code, details = {}) {
    super(message);
    Object.assign(this, { code, details });
  }
}

/** Joins a lobby. Its members are known when the promise resolves. */
export const join = (url, options) => new Lobby(url, options).connect().ready;

export class Lobby {
  state = "idle";
  members = new Map();
  // Number of members, also in a lobby that is too large for a list.
  count = 0;
  me = null;
  welcome = null;
  latency = null;

  // Chosen once in the life of a page. `randomUUID` does not exist on pages without TLS.
  #session = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => (byte + 256).toString(16).slice(1)).join("");
  // The session of the page before it was reloaded, until the first welcome.
  #was = null;
  #base;
  #ended = new AbortController();

  // The current attempt or connection. Callbacks of another one are ignored.
  #link = null;
  #timers = {};
  #attempt = 0;
  #isExpired = false;
  #notBefore = 0;
  #lostAt = null;
  // Attempts in a row that did not open. After two of them with a WebSocket, the next is an event stream.
  #blocked = 0;

  // Where to continue: `{ epoch, seq }`, and the number of the last direct message.
  #position = null;
  #n = 0;
  #hasGap = false;

  // Requests that are not settled, in order; those without `ref` are not sent.
  #kept = new Set();
  #keptBytes = 0;
  // Requests without an answer by `ref`, among them those that have timed out.
  #sent = new Map();
  #ref = 0;
  // The timer that ends a pause that the server has asked for.
  #pause = null;

  #samples = [];
  #offset = performance.timeOrigin;

  #listeners = new Map();
  // Events before `ready`: they wait for the listeners that are added after `await join()`.
  #early = [];
  #settleReady;

  constructor(url, options = {}) {
    Object.assign(this, { url, options });
    this.ready = new Promise((resolve, reject) => (this.#settleReady = { resolve, reject }));
    // A page that does not use `ready` hears of its rejection by the event `connection`.
    this.ready.catch(() => {});
  }

  connect() {
    if (this.state !== "idle") return this;
    this.#base = new URL(this.url, globalThis.location?.href);
    this.#watchPage();
    const { signal } = this.options;
    signal?.addEventListener("abort", () => this.leave(), { signal: this.#ended.signal });
    if (signal?.aborted) this.leave();
    else this.#open();
    return this;
  }

  /** Gives the seat up. */
  leave() {
    if (this.state === "closed") return;
    this.#say({ type: "leave" });
    this.#drop(1000);
    this.#close({ code: 1000, reason: "left" });
  }

  [Symbol.dispose]() {
    this.leave();
  }

  /** The server's time in milliseconds since the Unix epoch. */
  now() {
    return Math.round(performance.now() + this.#offset);
  }

  // ---- what is sent ----

  /** Sends a message that is executed exactly once. Resolves with its `ack`. */
  request(type, payload, { timeout = this.options.timeout ?? REQUEST_MS } = {}) {
    const message = messageOf(type, payload);
    const bytes = this.#sizeOf(message);
    return new Promise((resolve, reject) => {
      if (this.state === "closed") return reject(new LobbyError("closed"));
      if (this.#kept.size >= MAX_KEPT || this.#keptBytes + bytes > MAX_BYTES) return reject(new LobbyError("queue_full"));
      const request = { message, bytes, ref: 0, resolve, reject };
      request.timer = after(timeout, () => {
        this.#settle(request, new LobbyError("timeout", request.ref ? "no answer; it may be executed" : "not sent"));
        this.#probe();
      });
      this.#kept.add(request);
      this.#keptBytes += bytes;
      this.#flush();
    });
  }

  /** Sends a message now or never. Returns whether it was sent. */
  send(type, payload) {
    return this.#sendNow(messageOf(type, payload));
  }

  /** Sends a binary message now or never. Returns whether it was sent; an event stream carries none. */
  bytes(data) {
    return !this.#link?.isStream && this.#sendNow(data);
  }

  #sendNow(message) {
    this.#sizeOf(message);
    return !this.#pause && !(this.#link?.socket?.bufferedAmount > MAX_BYTES) && this.#say(message);
  }

  // A message above the server's limit would end the connection for good.
  #sizeOf(message) {
    const bytes = message.byteLength ?? new TextEncoder().encode(JSON.stringify({ ref: 2 ** 53, ...message })).length;
    if (bytes > this.welcome?.limits.max_message_bytes) throw new LobbyError("too_large");
    return bytes;
  }

  #say(message) {
    const { socket, isWelcome } = this.#link ?? {};
    if (!isWelcome || socket.readyState !== 1) return false;
    socket.send(message.type ? JSON.stringify(message) : message);
    return true;
  }

  #flush() {
    for (const request of this.#kept) {
      if (!this.#link?.isWelcome || this.#sent.size >= MAX_IN_FLIGHT || this.#pause) return;
      if (request.ref) continue;
      request.ref = ++this.#ref;
      this.#sent.set(request.ref, request);
      this.#say({ ...request.message, ref: request.ref });
    }
  }

  #settle(request, error, ack) {
    if (!this.#kept.delete(request)) return;
    this.#keptBytes -= request.bytes;
    stop(request.timer);
    if (error) request.reject(error);
    else request.resolve(ack);
  }

  // ---- events ----

  /** Calls `listener` for each event, or each message of a type. Returns a function that removes it. */
  on(name, listener, { once, signal } = {}) {
    const call = (...values) => {
      if (once) off();
      listener(...values);
    };
    const off = () => listeners.delete(call);
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners);
    if (!signal?.aborted) listeners.add(call);
    signal?.addEventListener("abort", off);
    return off;
  }

  /** The same for one event. */
  once(name, listener, options) {
    return this.on(name, listener, { ...options, once: true });
  }

  /** Yields `[data, meta]` of each message from now on, until the lobby is closed. */
  async *[Symbol.asyncIterator]() {
    const unread = [];
    let wake;
    const offs = [
      this.on(ANY, (...entry) => unread.length > MAX_UNREAD || (unread.push(entry), wake?.())),
      this.on("connection", () => wake?.()),
    ];
    try {
      while (unread.length || this.state !== "closed") {
        if (unread.length > MAX_UNREAD) throw new LobbyError("overflow");
        if (unread.length) yield unread.shift();
        else await new Promise((resolve) => (wake = resolve));
      }
    } finally {
      for (const off of offs) off();
    }
  }

  #emit(name, ...values) {
    if (this.#early && name !== "connection") return this.#early.push([name, ...values]);
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(...values);
      } catch (error) {
        report(error);
      }
    }
  }

  #become(state, why) {
    if (this.state === state) return;
    this.state = state;
    this.#emit("connection", state, why);
  }

  // ---- the connection ----

  async #open() {
    const link = (this.#link = {});
    this.#timers.connect = after(CONNECT_MS, () => this.#lost(link, { code: 1006, reason: "no_welcome" }));
    this.#become("connecting");
    try {
      const { token } = this.options;
      const value = typeof token === "function" ? await token() : token;
      if (link === this.#link) link.socket = this.#socketOf(link, value);
    } catch (error) {
      report(error);
      this.#lost(link, { code: 1006, reason: "not_started" });
    }
  }

  #socketOf(link, token) {
    const part = (name) => this.options[name] ?? globalThis[name];
    const url = new URL(this.#base);
    const add = (name, value) => value == null || url.searchParams.set(name, value);
    const { welcome } = this;
    if (welcome) url.pathname = url.pathname.replace(/\/(~quick\/[^/]*|[^/]*)$/, `/${welcome.lobby}`);
    const position = this.#position && { ...this.#position, n: this.#n };
    Object.entries({ session: this.#session, was: this.#was, ...position }).forEach((field) => add(...field));
    link.isStream = this.#blocked === 2 && part("EventSource") && url.pathname.includes("/ws/");
    url.protocol = url.protocol.replace(/ws|http/, link.isStream ? "http" : "ws");
    const protocols = ["lobby.v1.json"];
    if (link.isStream) {
      url.pathname = url.pathname.replace("/ws/", "/sse/");
      add("token", token);
    } else if (token) protocols.push(`base64url.bearer.lobby.${base64url(token)}`);
    const socket = link.isStream ? new StreamSocket(url, part("EventSource"), part("fetch")) : new (part("WebSocket"))(url, protocols);
    return Object.assign(socket, {
      binaryType: "arraybuffer",
      onopen: () => {
        link.hasOpened = true;
        if (!link.isStream) this.#blocked = 0;
      },
      onmessage: ({ data }) => link === this.#link && this.#receive(data),
      onclose: (event) => this.#lost(link, event),
      onerror: () => {},
    });
  }

  // A socket that is given up is closed without a code: the code 1000 would give the seat up, too.
  #drop(code) {
    const socket = this.#link?.socket;
    this.#link = null;
    Object.values(this.#timers).forEach(stop);
    this.#timers = {};
    socket?.close(code);
  }

  #lost(link, event) {
    if (link !== this.#link) return;
    this.#drop();
    if (link.socket && !link.hasOpened) this.#blocked = (this.#blocked + 1) % 3;
    const { code, reason, reconnect, retry_after_ms } = link.goodbye ?? event;
    // A token that has expired is renewed. If the new one is refused at once, a third would be, too.
    const isRenewed = code === 4001 && reason === "token_expired" && !this.#isExpired;
    this.#isExpired = code === 4001;
    const comesBack = reconnect ?? /^(10(0[156]|1[123])|4[1256]..)$/.test(code);
    if (code === 4001 ? !isRenewed : !comesBack) return this.#close({ code, reason });

    const least = retry_after_ms ?? 0;
    const isAtOnce = isRenewed || (/^4[26]/.test(code) && !this.#attempt);
    const wait = Math.max(least, isAtOnce ? 0 : Math.random() * Math.min(20_000, 500 * 2 ** this.#attempt));
    this.#attempt += 1;
    this.#notBefore = Date.now() + least;
    this.#lostAt ??= Date.now();
    this.#retryIn(wait);
    this.#become("waiting", { code, reason, wait });
  }

  #retryIn(wait) {
    stop(this.#timers.retry);
    this.#timers.retry = after(wait, () => {
      this.#timers.retry = null;
      // A hidden page whose seat is gone waits until it is visible.
      const isGone = Date.now() - this.#lostAt > (this.welcome?.away_ms ?? AWAY_MS);
      if (!isGone || !isHidden()) this.#open();
    });
  }

  #close(why) {
    const { code, reason } = why;
    this.#ended.abort();
    stop(this.#pause);
    this.#settleReady.reject(new LobbyError(reason || `${code}`, `closed: ${code} ${reason}`, why));
    for (const request of this.#kept) this.#settle(request, new LobbyError("closed", `closed: ${code} ${reason}`, why));
    this.#become("closed", why);
  }

  // ---- the page ----

  #watchPage() {
    const key = `lobbyd ${this.options.key ?? this.#base.origin + this.#base.pathname}`;
    // Taken and removed: a duplicated tab gets a copy of the storage, and must not claim the seat of this one.
    this.#was = stored("getItem", key);
    stored("removeItem", key);
    const act = ({ type }) => {
      if (type === "pagehide") return stored("setItem", key, this.#was ?? this.#session);
      if (type === "pageshow") stored("removeItem", key);
      this.#wake(type === "online");
    };
    for (const type of ["pagehide", "pageshow", "online", "visibilitychange", "resume"]) {
      globalThis.addEventListener?.(type, act, { capture: true, signal: this.#ended.signal });
    }
  }

  #wake(isOnline) {
    if (this.state === "waiting") {
      if (isOnline || (!this.#timers.retry && !isHidden())) this.#retryIn(Math.max(0, this.#notBefore - Date.now()));
    } else if (!isHidden()) this.#probe();
  }

  // A dead connection looks like a silent one, until something is sent that must be answered.
  #probe() {
    const link = this.#link;
    if (this.#ping()) this.#timers.probe ??= after(PROBE_MS, () => this.#lost(link, { code: 1006, reason: "no_answer" }));
  }

  // Its `ref` is a string, because integers are the numbers of requests.
  #ping() {
    return this.#say({ type: "ping", ref: `${performance.now()}` });
  }

  // ---- what arrives ----

  #receive(data) {
    stop(this.#timers.probe);
    this.#timers.probe = null;
    if (typeof data !== "string") return this.#emit("binary", data);
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    try {
      if (typeof message?.type === "string") this.#handle(message);
    } catch (error) {
      // Fields are missing.
      report(error);
    }
  }

  #handle(message) {
    const { type, from = null, seq, n, data } = message;
    const meta = { from, seq, isDirect: type === "direct" };
    if (type !== "welcome" && Number.isInteger(seq)) {
      this.#position = { epoch: this.welcome.epoch, seq: Math.max(seq, this.#position?.seq ?? 0) };
    }
    switch (type) {
      case "welcome":
        return this.#welcomed(message);
      case "presence_state":
        return this.#listed(message);
      case "presence_diff":
        return this.#changed(message);
      case "direct":
        // A server that was told no position sends direct messages again.
        if (n <= this.#n) return;
        this.#n = n ?? 0;
        return this.#hear(data, meta);
      case "message":
        return this.#hear(data, meta);
      case "ack":
      case "error":
        return this.#answered(message);
      case "pong":
        return this.#sampled(message);
      case "health_ping":
        return this.#say({ type: "health_pong", timestamp: message.timestamp });
      case "goodbye":
        return (this.#link.goodbye = message);
      default:
        return this.#hear(message, meta);
    }
  }

  #welcomed(welcome) {
    const { resumed, recovered, epoch, n = 0, done = 0, refused = "0", server_time } = welcome;
    stop(this.#timers.connect);
    stop(this.#timers.stable);
    this.#timers.stable = after(STABLE_MS, () => {
      this.#attempt = 0;
      this.#isExpired = false;
    });
    this.#hasGap ||= this.#position !== null && !recovered;
    if (!resumed || epoch !== this.#position?.epoch) this.#position = null;
    this.#n = resumed ? Math.max(n, this.#n) : n;
    this.#was = this.#lostAt = this.latency = null;
    this.#samples = [];
    this.#offset = server_time - performance.now();
    this.welcome = welcome;
    this.#link.isWelcome = true;
    this.#ref = Math.max(this.#ref, done);
    for (const [ref, request] of this.#sent) {
      if (resumed && ref > done && this.#kept.has(request)) {
        this.#say({ ...request.message, ref });
        continue;
      }
      this.#sent.delete(ref);
      const isRefused = ref <= done && (BigInt(`0x${refused}`) >> BigInt(done - ref)) & 1n;
      this.#settle(request, !resumed ? new LobbyError("unknown") : isRefused && new LobbyError("refused"), {});
    }
    this.#ping();
    this.#flush();
  }

  // The list replaces what was known. What differs is told, so that the events and `members` always agree.
  #listed({ users, count }) {
    const { conn, user } = this.welcome;
    const list = new Map((users ?? [{ user, conn }]).map((entry) => [entry.conn, entry]));
    for (const member of this.members.values()) if (!list.has(member.conn)) this.#tell("leave", { ...member, reason: "unknown" });
    for (const entry of list.values()) this.#tell(this.members.has(entry.conn) ? (entry.away ? "away" : "back") : "join", entry);
    this.count = count ?? list.size;
    if (!this.me) {
      this.#settleReady.resolve(this);
      setTimeout(() => {
        const early = this.#early;
        this.#early = null;
        for (const event of early) this.#emit(...event);
      });
    }
    this.me = this.members.get(conn);
    this.#become("open");
    this.#emit("members");
    if (this.#hasGap) this.#emit("gap");
    this.#hasGap = false;
  }

  #changed({ joins = [], leaves = [], away = [], back = [] }) {
    for (const [name, entries] of Object.entries({ join: joins, leave: leaves, away, back })) {
      for (const entry of entries) this.#tell(name, entry);
    }
    this.count = this.members.size;
    this.#emit("members");
  }

  // Changes a member, and tells what is new. Members of the first list are not told.
  #tell(name, { reason, ...entry }) {
    const known = this.members.get(entry.conn);
    const wasAway = known?.away;
    const member = Object.assign(known ?? {}, { away: name === "away" }, entry);
    if (name === "leave") this.members.delete(entry.conn);
    else this.members.set(entry.conn, member);
    const isNew = name === "join" ? !known : known && (name === "leave" || member.away !== wasAway);
    if (isNew && this.me) this.#emit(name, member, reason);
  }

  // A message is an event with the name of its type. If it has none, or that of another event, it is a `message` or `direct`.
  #hear(content, meta) {
    const isTyped = isObject(content) && typeof content.type === "string";
    const { type = null, ref, ...data } = isTyped ? content : {};
    const values = [isTyped ? data : content, { ...meta, type }];
    this.#emit(isTyped && !EVENTS.includes(type) ? type : meta.isDirect ? "direct" : "message", ...values);
    this.#emit(ANY, ...values);
  }

  #answered({ type, ref, ...answer }) {
    const request = this.#sent.get(ref);
    const error = type === "error" ? new LobbyError(answer.code, answer.message, answer) : null;
    const isLimited = error?.code === "rate_limited";
    if (isLimited) {
      stop(this.#pause);
      this.#pause = after(answer.retry_after_ms ?? 1_000, () => {
        this.#pause = null;
        this.#flush();
      });
    }
    // Without a `ref` it answers a volatile message.
    if (!request) return error && ref == null && this.#emit("error", error);
    this.#sent.delete(ref);
    // The number is used up.
    if (isLimited) request.ref = 0;
    else this.#settle(request, error, answer);
    this.#flush();
  }

  #sampled({ ref, server_time }) {
    const now = performance.now();
    const trip = now - ref;
    this.#samples = [...this.#samples, { trip, offset: server_time + trip / 2 - now }].slice(-8);
    const best = this.#samples.reduce((one, other) => (other.trip < one.trip ? other : one));
    this.latency = Math.round(best.trip);
    this.#offset = best.offset;
  }
}

// Server-sent events and POST in the form of a WebSocket.
class StreamSocket {
  readyState = 0;
  #lines = [];
  #isPosting = false;

  constructor(url, EventSource, fetch) {
    const source = new EventSource(url);
    Object.assign(this, { url, source, fetch });
    source.onopen = () => {
      this.readyState = 1;
      this.onopen();
    };
    source.onmessage = (event) => this.onmessage(event);
    // By itself it would connect to the same address again, and not after every error.
    source.onerror = () => this.#fail();
  }

  get bufferedAmount() {
    return this.#lines.join().length;
  }

  send(line) {
    this.#lines.push(line);
    this.#post();
  }

  // With a code, what has been sent before is still posted: without an open stream it would be refused.
  close(code) {
    this.readyState = 3;
    if (!code || !this.#isPosting) this.source.close();
  }

  // One POST at a time, of a few small messages or one large one.
  async #post() {
    if (this.#isPosting) return;
    this.#isPosting = true;
    const { url, fetch } = this;
    while (this.#lines.length) {
      let body = this.#lines.shift();
      while (body.length + this.#lines[0]?.length < 4_096) body += `\n${this.#lines.shift()}`;
      const answer = await fetch(url, { method: "POST", body }).catch(() => null);
      // What is lost is sent again after the resume.
      if (answer?.status !== 202) return this.#fail();
    }
    this.#isPosting = false;
    if (this.readyState === 3) this.source.close();
  }

  #fail() {
    if (this.readyState === 3) return;
    this.close();
    this.onclose({ code: 1006, reason: "" });
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isHidden = () => globalThis.document?.hidden;
const report = (error) => (globalThis.reportError ?? console.error)(error);
const base64url = (text) =>
  btoa(String.fromCharCode(...new TextEncoder().encode(text))).replace(/[+/=]/g, (c) => ({ "+": "-", "/": "_" })[c] ?? "");

// A copy: what the caller changes later does not change a message that waits.
function messageOf(type, payload) {
  const fields = isObject(payload) ? payload : { data: payload };
  if ("type" in fields || "ref" in fields) throw new TypeError("the client sets type and ref");
  return JSON.parse(JSON.stringify({ type, ...fields }));
}

// A timer that fires late has slept with its page: what has arrived meanwhile is handled first.
function after(ms, action) {
  const due = Date.now() + ms;
  const act = () => (Date.now() - due < 1_000 ? action() : (timer.id = setTimeout(action, 100)));
  const timer = { id: setTimeout(act, ms) };
  return timer;
}

const stop = (timer) => clearTimeout(timer?.id);

// `null` if the page has no storage, or may not use it.
function stored(method, ...values) {
  try {
    return globalThis.sessionStorage[method](...values);
  } catch {
    return null;
  }
}
