// The client of lobbyd: a member of a lobby that comes back to its seat when its connection is lost. No dependency, no build step.
// README.md describes the API, and src/guide/protocol.md the messages.
//
//     idle --connect()--> connecting --welcome, list--> open --lost--> waiting --time--> connecting --> …
//     each of them --leave(), or a close that says not to come back--> closed

// Bytes of requests that are kept, and of what a connection may buffer before volatile messages are dropped.
const MAX_BYTES = 65_536;
const MAX_UNREAD = 1_000;
// Requests without an answer. The server allows no more in a session.
const MAX_SENT = 16;
// Events that are no types of messages. Without lobby control the second ones are the game's.
const EVENTS = "join leave away back members gap connection error message direct binary".split(" ");
const CONTROL_EVENTS = "data host settings countdown start".split(" ");
// The event of every message, for iterators.
const ANY = Symbol("any");

/** `code` is the reason word of a close, the code of an `error` of the server, or a code of this client. */
export class LobbyError extends Error {
  name = "LobbyError";

  constructor(code, details = {}) {
    super(details.message ?? code);
    Object.assign(this, { code, details });
  }
}

/** Joins a lobby. Its members are known when the promise resolves. */
export const join = (url, options) => new Lobby(url, options).connect().ready;

/** A seat. */
class Member {
  away = false;
  data = {};
  #lobby;

  constructor(lobby) {
    this.#lobby = lobby;
  }

  get host() {
    return this.#lobby.host === this;
  }

  /** Changes the data of this member: one's own, or as the host that of others. */
  set(data, options) {
    return this.#lobby.set(data, { ...options, of: this });
  }
}

export class Lobby {
  state = "idle";
  // Of the states `waiting` and `closed`.
  why = null;
  members = new Map();
  // Number of members, also in a lobby that is too large for a list.
  count = 0;
  // Watchers have none.
  me = null;
  welcome = null;
  latency = null;

  // Empty without lobby control. Each change makes a new object.
  data = {};
  settings = {};
  watchers = 0;
  // When the game starts, in milliseconds since the Unix epoch.
  countdown = null;
  #host = null;

  // Chosen once in the life of a page. `randomUUID` does not exist on pages without TLS.
  #session = crypto.getRandomValues(new Uint32Array(4)).join("-");
  // The session of the page before it was reloaded, until the first welcome.
  #was = null;
  #ended = new AbortController();

  // The current attempt or connection. Callbacks of another one are ignored.
  #link = null;
  // The first list was read: from now on changes are told.
  #isKnown = false;
  // By name, and those of requests. `pause` is one that the server has asked for.
  #timers = new Map();
  #attempt = 0;
  #isExpired = false;
  // An attempt of this page, or of the one before, had no answer: it may still arrive, and displace a later connection.
  #hasStray = false;
  // Of the server that has the lobby, if a goodbye has named one.
  #home = null;
  // The server wants no attempt before, and this wait at most.
  #notBefore = 0;
  #least = 0;
  #lostAt = null;
  // Attempts in a row that did not open: after two WebSockets, the next is an event stream. After a stream that was stable, one WebSocket is
  // tried: the server may have been away when the others failed. `NaN`: the network blocks no WebSockets.
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
  // When the server has refused a message with `rate_limited`, and when the last message of the application was sent.
  #limitedAt = -Infinity;
  #sentAt = -Infinity;

  #samples = [];
  #offset = performance.timeOrigin;

  #listeners = new Map();
  // Events before `ready`: they wait for the listeners that are added after `await join()`.
  #early = [];
  #settleReady;

  /** The lobbies that can be joined, live: `lobbies`, at most 100 of them, the oldest first; `more`: there are others. */
  static list(url, { pool, tags, ...options } = {}) {
    const list = new Lobby(filtered(url, { pool, tags }), options);
    return Object.assign(list, { lobbies: [], more: false }).connect();
  }

  /** The same once: `{ lobbies, next }`. `after` is the `next` of the answer before. */
  static async find(url, filters) {
    const address = filtered(url, filters);
    address.protocol = address.protocol.replace("ws", "http");
    address.pathname = address.pathname.replace("/ws/~", "/");
    const answer = await fetch(address).catch(({ message }) => ({ message, status: 0 }));
    const { ok, status, message } = answer;
    const found = ok && (await answer.json().catch(() => null));
    if (!found?.lobbies) throw new LobbyError({ 404: "no_control", 429: "rate_limited" }[status] ?? "unavailable", { status, message });
    return found;
  }

  constructor(url, options = {}) {
    Object.assign(this, { url, options });
    this.ready = new Promise((resolve, reject) => (this.#settleReady = { resolve, reject }));
    // A page that does not use `ready` hears of its rejection by the event `connection`.
    this.ready.catch(() => {});
  }

  connect() {
    if (this.state !== "idle") return this;
    this.#watchPage();
    this.#open();
    const { signal } = this.options;
    signal?.addEventListener("abort", () => this.leave(), { signal: this.#ended.signal });
    if (signal?.aborted) this.leave();
    return this;
  }

  /** Gives the seat up. Nothing more is told. */
  leave() {
    if (this.state === "closed") return;
    this.#say('{"type":"leave"}');
    this.#drop(1000);
    this.#early = null;
    this.#close({ code: 1000, reason: "left" });
    this.#listeners.clear();
  }

  [Symbol.dispose]() {
    this.leave();
  }

  /** The server's time in milliseconds since the Unix epoch. */
  now() {
    return Math.round(performance.now() + this.#offset);
  }

  /** What others join with. */
  get code() {
    return this.welcome?.lobby ?? null;
  }

  /** Number of the last message that was read, for `if` of `set`. */
  get seq() {
    return this.#position?.seq ?? 0;
  }

  get host() {
    return this.members.get(this.#host) ?? null;
  }

  // ---- lobby control ----

  /** Changes data of the lobby, or of a member. `null` deletes a key. With `if`, only if none of the keys has changed since that `seq`. */
  set(data, { of, if: seq, ...options } = {}) {
    return this.#keep("set", { data, of: of?.conn ?? of, if: seq }, options, true);
  }

  /** As the host: changes some settings. */
  configure(settings, options) {
    return this.#keep("settings", { settings }, options, true);
  }

  /** As the host: removes a user, a member or its id. With `ban` it cannot come back. */
  kick(who, { ban, ...options } = {}) {
    return this.#keep("kick", { user: who.user ?? who, ban }, options, true);
  }

  /** As the host. */
  unban(user, options) {
    return this.#keep("unban", { user }, options, true);
  }

  /** As the host: makes another member the host. */
  handOver(who, options) {
    return this.#keep("host", { conn: who.conn ?? who }, options, true);
  }

  // ---- what is sent ----

  /** Sends a request. The server executes it at most once. Resolves with its `ack`. */
  request(type, payload, options) {
    return this.#keep(type, payload, options);
  }

  #keep(type, payload, { timeout = 10_000 } = {}, isControl) {
    const text = encode(type, payload);
    return new Promise((resolve, reject) => {
      const isFull = this.#kept.size > 63 || (this.#keptBytes && this.#keptBytes + text.length > MAX_BYTES);
      const code = this.state === "closed" ? "closed" : this.#isTooLarge(text) ? "too_large" : isFull && "queue_full";
      if (code) return reject(new LobbyError(code));
      const request = { text, ref: 0, isControl, resolve, reject };
      this.#after(request, timeout, () => {
        this.#settle(request, "timeout");
        this.#probe();
      });
      this.#kept.add(request);
      this.#keptBytes += text.length;
      this.#flush();
    });
  }

  /** Sends a message now or never. Returns whether it was sent. */
  send(type, payload) {
    return this.bytes(encode(type, payload));
  }

  /** The same for a binary message. An event stream carries none. */
  bytes(data) {
    if (this.#isTooLarge(data)) throw new LobbyError("too_large");
    const { socket, isStream } = this.#link ?? {};
    const isBlocked = this.#timers.has("pause") || socket?.bufferedAmount > MAX_BYTES || (isStream && typeof data !== "string");
    // With this distance they do not exceed the rate again.
    const rate = this.welcome?.limits?.messages_per_second;
    const isEarly = rate > 0 && this.#window() < MAX_SENT && performance.now() - this.#sentAt < 1_000 / rate;
    return !isBlocked && !isEarly && this.#sayOwn(data);
  }

  // Most requests without an answer. Few after a refusal: those that are sent together would exceed the rate again.
  #window() {
    return Math.min(MAX_SENT, 1 + Math.floor((performance.now() - this.#limitedAt) / 1_000));
  }

  // A message above the server's limit would end the connection for good. 24 bytes are for a `ref`.
  #isTooLarge(data) {
    return (data.byteLength ?? new TextEncoder().encode(data).length + 24) > this.welcome?.limits?.max_message_bytes;
  }

  #say(data) {
    const { socket, isWelcome } = this.#link ?? {};
    if (!isWelcome || socket.readyState !== 1) return false;
    socket.send(data);
    return true;
  }

  #sayOwn(data) {
    const isSent = this.#say(data);
    if (isSent) this.#sentAt = performance.now();
    return isSent;
  }

  #flush() {
    for (const request of this.#kept) {
      // Without a position a late attempt could make it forget what it has executed.
      if (!this.#link?.isWelcome || !this.#position || this.#sent.size >= this.#window() || this.#timers.has("pause")) return;
      if (request.ref) continue;
      // Without lobby control it would be a message to the other members.
      const code = request.isControl && !this.welcome.control ? "no_control" : this.#isTooLarge(request.text) && "too_large";
      if (code) this.#settle(request, code);
      else {
        request.ref = ++this.#ref;
        this.#sent.set(request.ref, request);
        this.#sayRequest(request);
      }
    }
  }

  #sayRequest({ text, ref }) {
    this.#sayOwn(`${text.slice(0, -1)},"ref":${ref}}`);
  }

  #settle(request, code, answer) {
    if (!this.#kept.delete(request)) return;
    this.#keptBytes -= request.text.length;
    this.#stop(request);
    if (code) request.reject(new LobbyError(code, answer));
    else request.resolve(answer);
  }

  // ---- events ----

  /** Calls `listener` for each event, or each message of a type. Returns a function that removes it. */
  on(name, listener, { once, signal } = {}) {
    const call = (...values) => {
      if (once) off();
      return listener(...values);
    };
    const off = () => {
      signal?.removeEventListener("abort", off);
      return listeners.delete(call);
    };
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

  /** Yields `[data, meta]` of each message from now on, until the lobby is closed; of a list the newest `[lobbies, more]`. */
  async *[Symbol.asyncIterator]() {
    const { lobbies, more } = this;
    const unread = lobbies && this.#isKnown ? [[lobbies, more]] : [];
    let wake;
    const tell = (...entry) => {
      if (lobbies) unread.length = 0;
      if (entry.length === 2 && unread.length <= MAX_UNREAD) unread.push(entry);
      wake?.();
    };
    const off = this.on(ANY, tell);
    try {
      for (;;) {
        if (unread.length > MAX_UNREAD) throw new LobbyError("overflow");
        if (unread.length) yield unread.shift();
        // It may have been closed before it was open.
        else if (this.state === "closed") return this.why.reason === "left" ? undefined : void (await this.ready);
        else await new Promise((resolve) => (wake = resolve));
      }
    } finally {
      off();
    }
  }

  #tell(name, ...values) {
    if (this.#isKnown) this.#emit(name, ...values);
  }

  #emit(name, ...values) {
    if (this.#early && name !== "connection") return this.#early.push([name, ...values]);
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      // One before it may have removed it, or left.
      if (!this.#listeners.get(name)?.has(listener)) continue;
      try {
        listener(...values)?.catch?.(report);
      } catch (error) {
        report(error);
      }
    }
  }

  // A timer that fires late has slept with its page: what has arrived meanwhile is handled first. Not again: the page may be slow.
  #after(key, ms, action, isLate) {
    const due = Date.now() + ms;
    const act = () => {
      if (!isLate && Date.now() - due > 1_000) return this.#after(key, 100, action, true);
      this.#timers.delete(key);
      action();
    };
    this.#stop(key);
    // Browsers call a longer one at once.
    this.#timers.set(key, setTimeout(act, Math.min(ms, 2 ** 31 - 1)));
  }

  #stop(key) {
    clearTimeout(this.#timers.get(key));
    this.#timers.delete(key);
  }

  #become(state, why) {
    // A listener may have left.
    if (this.state === state || this.state === "closed") return;
    this.state = state;
    this.why = why ?? null;
    this.#emit("connection", state, why);
  }

  // ---- the connection ----

  async #open() {
    const link = (this.#link = {});
    this.#limit();
    this.#become("connecting");
    try {
      absolute(this.url);
    } catch ({ code: reason }) {
      return this.#lost(link, { code: 4007, reason });
    }
    try {
      const { token } = this.options;
      const value = typeof token === "function" ? await token() : token;
      // Without one the server would refuse the client for good.
      if (typeof token === "function" && value == null) return this.#lost(link, { code: 1006, reason: "no_token" });
      link.isReady = true;
      if (link === this.#link) link.socket = this.#socketOf(link, value);
    } catch (error) {
      report(error);
      // The browser refuses the address of the application, and would refuse it again.
      this.#lost(link, link.isReady && !(this.#home ?? this.welcome) ? { code: 4007, reason: "bad_url" } : undefined);
    }
  }

  #socketOf(link, token) {
    const url = absolute(this.url);
    // Not `host`: without a port in it, the old one would stay. Browsers refuse a fragment.
    const { protocol, hostname, port } = new URL(this.#home ?? url);
    Object.assign(url, { protocol, hostname, port, hash: "" });
    if (this.welcome) {
      url.pathname = url.pathname.replace(/\/(~quick\/[^/]*|[^/]*)$/, `/${this.welcome.lobby}`);
      // The lobby may be gone with its server. Its members come back nevertheless.
      url.searchParams.delete("create");
    }
    const isStream = this.#blocked === 2 && globalThis.EventSource && url.pathname.includes("/ws/");
    url.protocol = url.protocol.replace(/ws|http/, isStream ? "http" : "ws");
    if (isStream) url.pathname = url.pathname.replace("/ws/", "/sse/");
    const position = this.#position && { ...this.#position, n: this.#n };
    // A list has no seat.
    const seat = this.lobbies ? null : { session: this.#session, was: this.#was, ...position };
    addTo(url, { token: isStream ? token : null, ...seat });
    const { WebSocket = globalThis.WebSocket } = this.options;
    const bearer = token ? [`base64url.bearer.lobby.${base64url(token)}`] : [];
    const socket = isStream ? streamSocket(url) : new WebSocket(url, ["lobby.v1.json", ...bearer]);
    link.isStream = isStream;
    return Object.assign(socket, {
      binaryType: "arraybuffer",
      onopen: () => {
        link.hasOpened = true;
        if (!isStream) this.#blocked = NaN;
      },
      onmessage: ({ data }) => link === this.#link && this.#receive(data),
      onclose: (event) => this.#lost(link, event),
      onerror: () => {},
    });
  }

  // A socket that is given up is closed without a code: 1000 would give the seat up, too.
  #drop(code) {
    const socket = this.#link?.socket;
    this.#link = null;
    for (const key of ["connect", "stable", "probe", "retry"]) this.#stop(key);
    socket?.close(code);
  }

  #lost(link, event = { code: 1006, reason: "" }) {
    if (link !== this.#link) return;
    this.#drop();
    if (link.isStream && !this.#attempt) this.#blocked = 1;
    else if (link.socket && !link.hasOpened) this.#blocked = (this.#blocked + 1) % 3;
    const { code, reason, reconnect, retry_after_ms, url } = link.goodbye ?? event;
    // If the server of the lobby cannot be reached, the first address knows where the lobby is then.
    this.#home = url ?? (link.isWelcome ? this.#home : null);
    // A token that has expired is renewed. If the new one is refused at once, a third would be, too.
    // A client that was replaced by its own stray attempt comes back. If there is a newer login, a client with a position is refused.
    const isRenewed = code === 4004 ? this.#hasStray && this.#position : reason === "token_expired" && !this.#isExpired;
    this.#isExpired = code === 4001;
    if (code === 4004) this.#hasStray = false;
    if (code === 1006 && link.socket && !link.isWelcome) this.#hasStray = true;
    const comesBack = /^400[14]$/.test(code) ? isRenewed : reconnect ?? /^(10(0[156]|11)|4[1256]..)$/.test(code);
    if (!comesBack) return this.#close({ code, reason });

    const least = (this.#least = Number.isFinite(retry_after_ms) ? retry_after_ms : 0);
    const isAtOnce = isRenewed || ((url || /^4[26]/.test(code)) && !this.#attempt);
    const wait = Math.max(least, isAtOnce ? 0 : Math.random() * Math.min(20_000, 500 * 2 ** this.#attempt));
    this.#attempt += 1;
    this.#notBefore = Date.now() + least;
    this.#lostAt ??= Date.now();
    this.#retryIn(wait);
    this.#become("waiting", { code, reason, wait });
  }

  #retryIn(wait) {
    this.#after("retry", wait, () => {
      // A hidden page whose seat is gone waits until it is visible.
      const isKept = Date.now() - this.#lostAt <= (this.welcome?.away_ms ?? 30_000);
      if (isKept || !isHidden()) this.#open();
    });
  }

  #close(why) {
    this.#ended.abort();
    this.#settleReady.reject(new LobbyError(why.reason || `${why.code}`, why));
    for (const request of this.#kept) this.#settle(request, "closed", why);
    this.#become("closed", why);
    // Ends iterators, after the events that wait for their listeners.
    if (!this.#isKnown) this.#early = null;
    this.#emit(ANY);
  }

  // ---- the page ----

  #watchPage() {
    const key = `lobbyd ${this.options.key ?? this.url}`;
    // Taken and removed: a duplicated tab gets a copy of the storage, and must not claim the seat of this one.
    this.#was = stored("getItem", key);
    this.#hasStray = this.#was !== null;
    stored("removeItem", key);
    const act = ({ type, persisted }) => {
      if (type === "pagehide") {
        stored("setItem", key, this.#was ?? this.#session);
        // The browser keeps the page, and may keep its connection open: the member would look present.
        if (persisted && this.#link) this.#lost(this.#link);
        return;
      }
      if (type === "pageshow") stored("removeItem", key);
      this.#wake(type === "online");
    };
    for (const type of ["pagehide", "pageshow", "online", "visibilitychange", "resume"]) {
      globalThis.addEventListener?.(type, act, { capture: true, signal: this.#ended.signal });
    }
  }

  #wake(isOnline) {
    if (this.state !== "waiting") this.#probe();
    else if (isOnline || !(this.#timers.has("retry") || isHidden())) this.#retryIn(Math.min(this.#least, Math.max(0, this.#notBefore - Date.now())));
  }

  // A dead connection looks like a silent one, until something is sent that must be answered.
  #probe() {
    const link = this.#link;
    if (!this.#timers.has("probe") && this.#ping()) this.#after("probe", 3_000, () => this.#lost(link));
  }

  // Its `ref` is a string, because integers are the numbers of requests.
  #ping() {
    return this.#say(`{"type":"ping","ref":"${performance.now()}"}`);
  }

  // ---- what arrives ----

  #receive(data) {
    this.#stop("probe");
    if (typeof data !== "string") return this.#emit("binary", data);
    let message = null;
    try {
      message = JSON.parse(data);
    } catch {
      // It is no message.
    }
    try {
      if (typeof message?.type === "string") this.#handle(message);
    } catch (error) {
      // Fields are missing.
      report(error);
    }
  }

  #handle(message) {
    const { type, seq } = message;
    const { control } = this.welcome ?? {};
    if (type !== "welcome" && Number.isInteger(seq)) {
      this.#position = { epoch: this.welcome.epoch, seq: Math.max(seq, this.seq) };
    }
    const handlers = {
      __proto__: null,
      welcome: this.#welcomed,
      presence_state: this.#listed,
      presence_diff: this.#changed,
      ack: this.#answered,
      error: this.#answered,
      // Of a request, or without a `ref` of `send`, unless the client itself has asked.
      pong: typeof message.ref === "string" ? this.#sampled : this.#answered,
      health_ping: ({ timestamp }) => this.#say(JSON.stringify({ type: "health_pong", timestamp })),
      goodbye: () => Number.isInteger(message.code) && (this.#link.goodbye = message),
      ...(control && {
        lobby_state: this.#stated,
        state: this.#set,
        host: this.#hosted,
        settings: ({ settings, by }) => this.#replace(this, "settings", { ...this.settings, ...settings }, { by, seq }),
        countdown: this.#counted,
        start: ({ seats = [] }) => {
          this.countdown = null;
          this.#tell("start", seats);
        },
      }),
      ...(this.lobbies && { lobbies: this.#listing, lobbies_diff: this.#listing }),
    };
    (handlers[type] ?? this.#hear).call(this, message);
  }

  // The server itself allows 10 s for authorization. The list may take as long after the welcome.
  #limit() {
    const link = this.#link;
    this.#after("connect", 15_000, () => this.#lost(link, { code: 1006, reason: link.isWelcome ? "no_list" : "no_welcome" }));
  }

  #connected() {
    this.#limit();
    this.#lostAt = null;
    // The backoff begins anew after so long a connection.
    this.#after("stable", 5_000, () => {
      this.#attempt = 0;
      this.#isExpired = false;
    });
  }

  #welcomed(welcome) {
    const { conn, recovered, epoch, n = 0, done = 0, refused = "0", server_time } = welcome;
    // The session may have got another seat on a connection whose welcome was lost.
    const resumed = welcome.resumed && conn === (this.welcome?.conn ?? conn);
    this.#connected();
    this.#hasGap ||= this.#position !== null && !recovered;
    if (!resumed || epoch !== this.#position?.epoch) this.#position = null;
    this.#n = Math.max(n, resumed ? this.#n : 0);
    this.#was = this.latency = null;
    this.#samples = [];
    this.#offset = server_time - performance.now();
    this.welcome = welcome;
    this.#link.isWelcome = true;
    this.#ref = Math.max(this.#ref, done);
    for (const [ref, request] of this.#sent) {
      if (resumed && ref > done && this.#kept.has(request)) {
        this.#sayRequest(request);
        continue;
      }
      this.#sent.delete(ref);
      const isRefused = ref <= done && (BigInt(`0x${refused}`) >> BigInt(done - ref)) & 1n;
      this.#settle(request, !resumed ? "unknown" : isRefused && "refused", {});
    }
    this.#ping();
    this.#flush();
  }

  // The list replaces what was known. What differs is told, so that events and members agree.
  #listed({ users, count, seq }) {
    const { conn, user, control } = this.welcome;
    const list = users ?? (/[?&]role=watch/.test(this.url) ? [] : [this.members.get(conn) ?? { user, conn }]);
    // A server that was started anew gives the names of seats again. With another user it is another member.
    const isSame = (member) => (entry) => entry.conn === member.conn && entry.user === member.user;
    const gone = [...this.members.values()].filter((member) => !list.some(isSame(member)));
    const own = list.find((entry) => entry.conn === conn);
    const known = this.members.get(conn);
    this.me = own ? (known && !gone.includes(known) ? known : Object.assign(new Member(this), own)) : null;
    this.#changed({ joins: list, leaves: gone.map((member) => ({ ...member, reason: "unknown" })) });
    for (const entry of list) {
      const who = this.members.get(entry.conn);
      this.#replace(who, "data", entry.data ?? {}, who, { by: null, seq });
    }
    this.count = count ?? list.length;
    this.#flush();
    if (!control) this.#stated({});
  }

  // The rest of what is known: it follows the list.
  #stated({ seq, host = null, settings = {}, data = {}, watchers = 0, countdown = null }) {
    this.watchers = watchers;
    this.#replace(this, "settings", settings, { by: null, seq });
    this.#replace(this, "data", data, null, { by: null, seq });
    this.#hosted({ conn: host });
    this.#counted({ at: countdown });
    this.#opened();
    if (this.#hasGap) this.#emit("gap");
    this.#hasGap = false;
  }

  #opened() {
    if (!this.#isKnown) {
      this.#settleReady.resolve(this);
      setTimeout(() => {
        const early = this.#early ?? [];
        this.#early = null;
        for (const event of early) this.#emit(...event);
      });
    }
    this.#isKnown = true;
    this.#stop("connect");
    this.#become("open");
  }

  // Members of the first list are not told.
  #changed({ joins = [], leaves = [], away = [], back = [] }) {
    const isKnown = ({ conn }) => this.members.has(conn);
    // A user with a new seat leaves the former one first. A member may also have joined and left since the last change.
    const passing = leaves.filter((entry) => !isKnown(entry));
    for (const [kind, entries] of [["leave", leaves.filter(isKnown)], ["join", joins], ["leave", passing], ["away", away], ["back", back]]) {
      for (const { reason, data, ...entry } of entries) {
        const known = this.members.get(entry.conn);
        const member = known ?? (this.me?.conn === entry.conn ? this.me : Object.assign(new Member(this), data && { data }));
        // A list names known members, too.
        const name = kind === "join" && known ? (entry.away ? "away" : "back") : kind;
        const wasAway = known?.away;
        Object.assign(member, { away: name === "away" }, entry);
        if (name === "leave") this.members.delete(entry.conn);
        else this.members.set(entry.conn, member);
        if (name === "leave" || member.away !== wasAway) this.#tell(name, member, reason);
      }
    }
    this.count = this.members.size;
    this.#emit("members");
  }

  #set({ conn, data, by, seq }) {
    const target = conn ? this.members.get(conn) : this;
    // In a lobby that is too large for a list the others are unknown.
    if (!target) return;
    const now = Object.entries({ ...target.data, ...data }).filter(([, value]) => value !== null);
    this.#replace(target, "data", Object.fromEntries(now), conn ? target : null, { by, seq });
  }

  // Tells what differs.
  #replace(target, name, now, ...about) {
    const before = target[name];
    const keys = Object.keys({ ...before, ...now }).filter((key) => JSON.stringify(own(before, key)) !== JSON.stringify(own(now, key)));
    target[name] = now;
    if (keys.length) this.#tell(name, Object.fromEntries(keys.map((key) => [key, own(now, key) ?? null])), ...about);
  }

  #hosted({ conn }) {
    if (conn === this.#host) return;
    this.#host = conn;
    this.#tell("host", this.host);
  }

  #counted({ at }) {
    if (at === this.countdown) return;
    this.countdown = at;
    this.#tell("countdown", at);
  }

  // A list, or what has changed since.
  #listing({ lobbies, more = this.more, set = lobbies, gone = [] }) {
    if (lobbies) this.#connected();
    this.#link.isWelcome = true;
    const all = new Map((lobbies ? [] : this.lobbies).map((entry) => [entry.code, entry]));
    for (const code of gone) all.delete(code);
    for (const entry of set) all.set(entry.code, entry);
    Object.assign(this, { lobbies: [...all.values()], more });
    this.#opened();
    for (const name of ["lobbies", ANY]) this.#emit(name, this.lobbies, more);
  }

  // A message is an event with the name of its type. If it has none, or that of another event, it is a `message` or `direct`.
  #hear(message) {
    const { type: kind, from = null, seq, n } = message;
    const isDirect = kind === "direct";
    // A server that was told no position sends direct messages again.
    if (isDirect && n <= this.#n) return;
    if (isDirect && n) this.#n = n;
    const content = isDirect || kind === "message" ? message.data : message;
    const isTyped = typeof content?.type === "string";
    const { type, ref, ...data } = isTyped ? content : { type: null };
    const values = [isTyped ? data : content, { from, type, seq, isDirect }];
    const isEvent = EVENTS.includes(type) || (this.welcome.control && CONTROL_EVENTS.includes(type));
    this.#emit(isTyped && !isEvent ? type : isDirect ? "direct" : "message", ...values);
    this.#emit(ANY, ...values);
  }

  #answered({ type, ref, ...answer }) {
    const request = this.#sent.get(ref);
    const code = type === "error" && (answer.code ?? "error");
    const isLimited = code === "rate_limited";
    const { retry_after_ms } = answer;
    if (isLimited) {
      this.#limitedAt = performance.now();
      this.#after("pause", Number.isFinite(retry_after_ms) ? retry_after_ms : 1_000, () => this.#flush());
    }
    // Without a `ref` it answers a volatile message.
    if (!request) return code && ref == null && this.#emit("error", new LobbyError(code, answer));
    this.#sent.delete(ref);
    // The number is used up.
    if (isLimited) request.ref = 0;
    else this.#settle(request, code, answer);
    this.#flush();
  }

  #sampled({ ref, server_time }) {
    const [now, then] = [performance.now(), Number(ref)];
    const [roundTrip, offset] = [now - then, server_time - (now + then) / 2];
    // One that contradicts is from before a sleep, during which this clock stood still.
    const agrees = ([other, before]) => Math.abs(offset - before) <= (roundTrip + other) / 2 + 5;
    this.#samples = [[Math.round(roundTrip), offset], ...this.#samples.filter(agrees)].slice(0, 8);
    [this.latency, this.#offset] = this.#samples.reduce((best, other) => (other[0] < best[0] ? other : best));
  }
}

// Server-sent events and POST in the form of a WebSocket.
function streamSocket(url) {
  const source = new EventSource(url);
  const lines = [];
  let posts = null;
  // One POST at a time, of a few small messages or one large one.
  const post = async () => {
    while (lines.length) {
      let body = lines.shift();
      while (body.length + lines[0]?.length < 4_096) body += `\n${lines.shift()}`;
      const { status } = await fetch(url, { method: "POST", body });
      if (status !== 202) throw status;
    }
    posts = null;
  };
  // By itself the source would connect to the same address again, and not after every error.
  const fail = () => {
    lines.length = 0;
    source.close();
    socket.onclose();
  };
  const socket = {
    readyState: 1,
    get bufferedAmount() {
      return lines.join().length;
    },
    send(line) {
      lines.push(line);
      posts ??= post().catch(fail);
    },
    // With a code, what has been sent before is posted first: without an open stream it would be refused.
    close(code) {
      if (code && posts) return posts.then(() => source.close());
      lines.length = 0;
      source.close();
    },
  };
  source.onopen = () => socket.onopen();
  source.onmessage = (event) => socket.onmessage(event);
  source.onerror = fail;
  return socket;
}

// Throws if it can never work. An application may have routes of its own, but under `/ws/` is a lobby.
function absolute(url) {
  let address;
  try {
    address = new URL(url, globalThis.location?.href);
  } catch {
    // It is none.
  }
  if (!/^(ws|http)s?:/.test(address)) throw new LobbyError("bad_url");
  if (/\/ws\/(?!~|[\w-]{1,64}$)[^/]*$/.test(address.pathname)) throw new LobbyError("bad_lobby_code");
  return address;
}

function addTo(url, fields) {
  for (const name in fields) if (fields[name] != null) url.searchParams.set(name, fields[name]);
  return url;
}

function filtered(url, { tags, ...filters } = {}) {
  const ofTags = Object.entries(tags ?? {}).map(([name, value]) => [`tag.${name}`, value]);
  return addTo(absolute(url), { ...filters, ...Object.fromEntries(ofTags) });
}

// Every object inherits names such as `constructor`.
const own = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);
const isHidden = () => globalThis.document?.hidden;
const report = (error) => (globalThis.reportError ?? console.error)(error);
const base64url = (text) =>
  btoa(String.fromCharCode(...new TextEncoder().encode(text))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

function encode(type, payload) {
  const fields = payload && typeof payload === "object" && !Array.isArray(payload) ? payload : { data: payload ?? undefined };
  if ("type" in fields || "ref" in fields) throw new TypeError("the client sets type and ref");
  return JSON.stringify({ type, ...fields });
}

// `null` if the page has no storage, or may not use it.
function stored(method, ...values) {
  try {
    return globalThis.sessionStorage[method](...values);
  } catch {
    return null;
  }
}
