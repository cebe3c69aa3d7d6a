// The playground: any number of clients of one server on one page. Each of them is a client of lobby.js with a socket of its own,
// through which this page sees all frames, and can hold them back or cut the connection.
import { Lobby } from "./lobby.js";

// How a client of lobby control comes into a lobby.
const WAYS = { new: "~new", quick: "~quick/playground?seats=4" };
const START = { min: 2, ready: true, countdown_ms: 5_000 };

const FREEZE_MS = 10_000;
const OUTAGE_MS = 3_000;
// More than the burst that the server allows by default, but fewer than those for which it closes the connection.
const FLOOD = 140;
const MAX_LINES = 300;
const MAX_LINE = 2_000;
// The panes of this tab while it reloads.
const STORED = "playground";

const ANIMALS = "ant bat bee cat cod crow deer dove duck eel elk emu fox frog gnu goat hare hawk ibex jay kite koi lark lion lynx mole moth newt orca owl pika puma ram rook seal slug swan tern toad vole wasp wolf wren yak".split(" ");
const EXAMPLES = {
  broadcast: () => ({ type: "broadcast", data: "hello" }),
  direct: (pane) => ({ type: "direct", to: pane.someoneElse(), data: "psst" }),
  own: () => ({ type: "move", to: "e4" }),
  ack: (pane) => ({ type: "broadcast", data: "hello", ref: `a${(pane.refs += 1)}` }),
  ping: (pane) => ({ type: "ping", ref: `p${(pane.refs += 1)}` }),
  presence: () => ({ type: "presence" }),
};

const byId = (id) => document.getElementById(id);
const panes = new Set();
// The live list, once a client has found lobby control.
let list = null;

// The socket of a client. It has the part of a WebSocket that lobby.js uses.
class TappedSocket {
  bufferedAmount = 0;
  #held = [];
  #isDetached = false;

  constructor(pane, url, protocols) {
    this.pane = pane;
    // A reload claims the seat of this session.
    this.session = new URL(url).searchParams.get("session");
    if (Date.now() < pane.offlineUntil) {
      this.socket = null;
      setTimeout(() => this.onclose({ code: 1006, reason: "" }), 200);
      return;
    }
    this.socket = new WebSocket(url, protocols);
    this.socket.binaryType = "arraybuffer";
    for (const name of ["open", "message", "close"]) {
      this.socket.addEventListener(name, (event) => this.#arrived(name, event));
    }
    pane.socket = this;
  }

  get readyState() {
    return this.socket?.readyState ?? WebSocket.CONNECTING;
  }

  send(data) {
    if (this.#isDetached) return;
    if (this.pane.isFrozen) return void this.#held.push(() => this.send(data));
    if (this.readyState === WebSocket.OPEN) {
      this.pane.logFrame("out", data);
      this.socket.send(data);
    }
  }

  close(code) {
    if (this.#isDetached || !this.socket) return;
    if (code === undefined) this.socket.close();
    else this.socket.close(code);
  }

  // Ends the connection as a page does that is left. The client does not hear of it.
  detach() {
    this.close();
    this.#isDetached = true;
  }

  thaw() {
    for (const action of this.#held.splice(0)) action();
  }

  #arrived(name, event) {
    if (this.#isDetached) return;
    if (this.pane.isFrozen) return void this.#held.push(() => this.#arrived(name, event));
    if (name === "message") this.pane.logFrame("in", event.data);
    if (name === "close") this.pane.log("note", `closed: ${event.code} ${event.reason}`);
    this[`on${name}`]?.(event);
  }
}

// One client on the page.
class Pane {
  refs = 0;
  offlineUntil = 0;
  isFrozen = false;
  isAtEnd = true;
  socket = null;
  lobby = null;

  // `path` is the part of the address behind /ws/, with its query.
  constructor({ path, name, key }) {
    Object.assign(this, { path, name, key: key ?? newKey() });
    const root = byId("pane").content.firstElementChild.cloneNode(true);
    const part = (selector) => root.querySelector(selector);
    Object.assign(this, { root, text: part("textarea"), list: part(".log"), members: part(".members") });
    part("h2").textContent = name;
    part(".remove").onclick = () => this.remove();
    part(".say").onsubmit = (event) => {
      event.preventDefault();
      this.sendText();
    };
    part(".request").onclick = () => this.request();
    part(".example").onchange = ({ target }) => {
      this.show(target.value);
      target.value = "";
    };
    this.text.onkeydown = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.sendText();
    };
    for (const button of root.querySelectorAll("[data-fault]")) button.onclick = () => this[button.dataset.fault]();
    part("[data-do=ready]").onclick = () => this.say("set", this.lobby.me.set({ ready: this.lobby.me.data.ready ? null : true }));
    part("[data-do=start]").onclick = () => this.say("settings", this.lobby.configure({ start: this.lobby.settings.start ? null : START }));
    part("[data-do=share]").onclick = () => copyLink(this.lobby.code);
    part(".set").onsubmit = (event) => this.set(event);
    part(".settings").onsubmit = (event) => this.configure(event);
    const { list } = this;
    list.onscroll = () => (this.isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 30);
    new ResizeObserver(() => this.followEnd()).observe(list);
    this.show("broadcast");
    byId("panes").append(root);
    panes.add(this);
    this.connect();
  }

  connect() {
    const url = new URL(`ws/${this.path}`, location.origin);
    const pane = this;
    const lobby = new Lobby(url, {
      key: this.key,
      token: this.name,
      WebSocket: function (url, protocols) {
        return new TappedSocket(pane, url, protocols);
      },
    });
    this.lobby = lobby;
    const changed = () => lobby === this.lobby && this.draw();
    lobby.on("connection", (state, why) => {
      if (lobby !== this.lobby) return;
      if (state === "waiting") this.log("note", `comes back in ${Math.round(why.wait)} ms`);
      if (state === "closed") this.log("note", `over: ${why.code} ${why.reason}`);
      if (state === "open" && lobby.welcome.control) {
        this.fillSettings();
        showList();
      }
      this.draw(why);
    });
    for (const name of ["members", "data", "host", "countdown"]) lobby.on(name, changed);
    lobby.on("settings", () => {
      this.fillSettings();
      changed();
    });
    lobby.on("start", (seats) => this.log("note", `the game starts with ${seats.map(({ user }) => user).join(", ")}`));
    lobby.on("gap", () => this.log("note bad", "gap: messages are missing"));
    lobby.on("error", ({ code, message }) => this.log("note bad", `${code}: ${message}`));
    lobby.connect();
    this.draw();
  }

  draw(why) {
    const { state, me, members, count, latency } = this.lobby;
    const show = (selector, text) => (this.root.querySelector(selector).textContent = text);
    this.root.dataset.state = state;
    this.root.toggleAttribute("data-frozen", this.isFrozen);
    show(".state", this.isFrozen ? "frozen" : state === "closed" && why ? `closed: ${why.reason || why.code}` : state);
    show(".latency", state === "open" && latency !== null ? `${latency} ms` : "");
    if (me) show("h2", me.user);
    const items = [...members.values()].slice(0, 100).map(({ user, conn, away, host, data }) => {
      const item = document.createElement("li");
      item.textContent = user;
      item.classList.toggle("me", conn === me?.conn);
      item.classList.toggle("away", away && state !== "closed");
      item.classList.toggle("host", host);
      item.classList.toggle("ready", data.ready === true);
      return item;
    });
    if (count > items.length) {
      const more = document.createElement("li");
      more.textContent = `${count} members`;
      items.push(more);
    }
    this.members.replaceChildren(...(state === "closed" ? [] : items));
    for (const button of this.root.querySelectorAll("[data-fault]")) {
      const isUseful = state !== "closed" || ["reload", "duplicate"].includes(button.dataset.fault);
      button.disabled = this.isFrozen || !isUseful;
    }
    this.drawControl();
  }

  // ---- lobby control ----

  drawControl() {
    const { state, welcome, me, members, host, data, settings, countdown } = this.lobby;
    const part = (selector) => this.root.querySelector(selector);
    part(".control").hidden = !welcome?.control || state === "closed";
    if (part(".control").hidden) return;
    this.drawSummary();
    const isHost = me !== null && me === host;
    part("[data-do=ready]").textContent = me?.data.ready ? "Not ready" : "Ready";
    part("[data-do=start]").textContent = settings.start ? "Do not start" : "Start when all are ready";
    part("[data-do=ready]").disabled = !me;
    for (const button of this.root.querySelectorAll(".control .host")) button.disabled = !isHost;
    part(".data").replaceChildren(...Object.entries(data).map((entry) => {
      const row = document.createElement("tr");
      entry.forEach((value, at) => (row.insertCell().textContent = at ? JSON.stringify(value) : value));
      return row;
    }));
    // Buttons stay while nothing changes: somebody may be about to click one.
    const people = [...members.values()].slice(0, 100);
    const shown = JSON.stringify([isHost, people]);
    if (shown === this.shown) return;
    this.shown = shown;
    part(".people").replaceChildren(...people.map((who) => this.person(who, isHost && who !== me)));
  }

  drawSummary() {
    const { me, host, settings, watchers, countdown, code } = this.lobby;
    const left = countdown && `starts in ${Math.max(0, Math.ceil((countdown - this.lobby.now()) / 1_000))} s`;
    const facts = [code, settings.name, host ? `host ${host.user}` : "no host", settings.locked && "locked", settings.has_password && "password",
      watchers > 0 && `${watchers} watching`, !me && "you watch", left];
    this.root.querySelector("summary").textContent = facts.filter(Boolean).join(" · ");
  }

  person(who, canAct) {
    const item = document.createElement("li");
    const text = document.createElement("span");
    text.textContent = `${who.user} ${JSON.stringify(who.data)}`;
    item.append(text);
    const actions = { Kick: () => this.lobby.kick(who), Ban: () => this.lobby.kick(who, { ban: true }), "Make host": () => this.lobby.handOver(who) };
    for (const [name, act] of canAct ? Object.entries(actions) : []) {
      const button = document.createElement("button");
      button.textContent = name;
      button.onclick = () => this.say(name, act());
      item.append(button);
    }
    return item;
  }

  fillSettings() {
    const { elements } = this.root.querySelector(".settings");
    const { name, max, watchers, write, tags, listed, locked } = this.lobby.settings;
    for (const [field, value] of Object.entries({ name, max, watchers, write, game: tags?.game })) elements[field].value = value ?? "";
    Object.assign(elements.listed, { checked: listed });
    Object.assign(elements.locked, { checked: locked });
  }

  configure(event) {
    event.preventDefault();
    const { name, password, max, watchers, write, game, listed, locked } = event.target.elements;
    const number = ({ value }) => (value === "" ? null : Number(value));
    const { game: _, ...tags } = this.lobby.settings.tags;
    const wanted = { name: name.value || null, max: number(max), watchers: number(watchers), write: write.value,
      tags: game.value ? { ...tags, game: game.value } : tags, listed: listed.checked, locked: locked.checked };
    // A password is never told. A space takes it away.
    if (password.value) wanted.password = password.value.trim() || null;
    const isNew = ([field, value]) => field === "password" || JSON.stringify(value) !== JSON.stringify(this.lobby.settings[field]);
    password.value = "";
    const changes = Object.entries(wanted).filter(isNew);
    if (changes.length) this.say("settings", this.lobby.configure(Object.fromEntries(changes)));
  }

  set(event) {
    event.preventDefault();
    const { of, key, value } = event.target.elements;
    let data;
    try {
      data = { [key.value]: JSON.parse(value.value) };
    } catch {
      // Words are texts.
      data = { [key.value]: value.value };
    }
    this.say("set", of.value ? this.lobby.me?.set(data) : this.lobby.set(data));
  }

  async say(name, promise) {
    try {
      await promise;
    } catch ({ code, message }) {
      this.log("note bad", `${name}: ${code}: ${message}`);
    }
  }

  // ---- the log ----

  logFrame(direction, data) {
    if (typeof data !== "string") return this.log(direction, `binary, ${data.byteLength} bytes`);
    let type;
    try {
      type = JSON.parse(data)?.type;
    } catch {}
    this.log(type === "error" || type === "goodbye" ? `${direction} bad` : direction, data, type);
  }

  log(kind, text, type) {
    const line = document.createElement("li");
    line.className = kind;
    line.title = new Date().toLocaleTimeString();
    if (typeof type === "string") {
      const name = document.createElement("b");
      name.textContent = type;
      line.append(name, " ");
      text = text.replace(/"type"\s*:\s*"[^"]*"\s*,?\s*/, "");
    }
    line.append(text.length > MAX_LINE ? `${text.slice(0, MAX_LINE)}… (${text.length} characters)` : text);
    this.list.append(line);
    while (this.list.childElementCount > MAX_LINES) this.list.firstElementChild.remove();
    this.followEnd();
  }

  // Unless somebody has scrolled back.
  followEnd() {
    if (this.isAtEnd) this.list.scrollTop = this.list.scrollHeight;
  }

  // ---- what is sent ----

  show(name) {
    if (name) this.text.value = EXAMPLES[name] ? JSON.stringify(EXAMPLES[name](this)) : '{"type":"broadcast","data":';
  }

  someoneElse() {
    const others = [...(this.lobby?.members.values() ?? [])].filter((who) => who !== this.lobby.me);
    return others.at(0)?.user ?? this.name;
  }

  sendText() {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(this.text.value);
    else this.log("note bad", "not sent: there is no connection");
  }

  async request() {
    try {
      const { type, ref, ...payload } = JSON.parse(this.text.value);
      const ack = await this.lobby.request(type, payload);
      this.log("note", `request ${type}: done ${JSON.stringify(ack)}`);
    } catch (error) {
      this.log("note bad", `request: ${error.code ?? error.name}: ${error.message}`);
    }
    this.draw();
  }

  // ---- what can go wrong ----

  drop() {
    this.offlineUntil = Date.now() + OUTAGE_MS;
    this.log("note bad", `the connection is cut, for ${OUTAGE_MS / 1000} s`);
    this.socket?.close();
  }

  freeze() {
    this.isFrozen = true;
    this.log("note bad", `frozen for ${FREEZE_MS / 1000} s`);
    this.draw();
    setTimeout(() => {
      this.isFrozen = false;
      this.log("note", "the page wakes up");
      this.socket?.thaw();
      this.draw();
    }, FREEZE_MS);
  }

  flood() {
    for (let n = 1; n <= FLOOD; n++) this.socket?.send(JSON.stringify({ type: "broadcast", data: `flood ${n}` }));
  }

  duplicate() {
    add(this.name, this.lobby.code ?? this.path);
  }

  reload() {
    const before = this.lobby;
    const session = this.socket?.session;
    // The client of the page that is left: what it still says reaches nobody.
    this.lobby = null;
    this.socket?.detach();
    before.leave();
    this.key = newKey();
    // As lobby.js does when a page is hidden.
    if (session && before.state !== "idle") sessionStorage.setItem(`lobbyd ${this.key}`, session);
    this.list.replaceChildren();
    this.log("note", "reloaded");
    this.connect();
  }

  leave() {
    this.lobby.leave();
  }

  remove() {
    this.isFrozen = false;
    this.lobby.leave();
    this.root.remove();
    panes.delete(this);
  }
}

const newKey = () => `pane ${Math.random().toString(36).slice(2)}`;

function freshName() {
  const animal = ANIMALS[Math.floor(Math.random() * ANIMALS.length)];
  return `${animal}-${Math.floor(10 + Math.random() * 90)}`;
}

function add(name, path = encodeURIComponent(byId("lobby").value)) {
  const password = byId("password").value;
  const query = password && `${path.includes("?") ? "&" : "?"}password=${encodeURIComponent(password)}`;
  return new Pane({ path: path + query, name: name || freshName() });
}

// The lobbies that are listed, live. A click joins one.
function showList() {
  byId("control").hidden = false;
  if (list) return;
  list = Lobby.list(new URL("ws/~lobbies", location.origin));
  list.on("lobbies", (lobbies, more) => {
    const [summary, items] = ["summary span", "ul"].map((selector) => byId("list").querySelector(selector));
    summary.textContent = `${lobbies.length || "none"}${more ? " and more" : ""}`;
    items.replaceChildren(...lobbies.map(({ code, name, tags, members, max, has_password }) => {
      const button = document.createElement("button");
      button.type = "button";
      const facts = [code, name, ...Object.entries(tags).map((tag) => tag.join(": ")), max === null ? `${members}` : `${members} of ${max}`, has_password && "password"];
      button.textContent = facts.filter(Boolean).join(" · ");
      button.onclick = () => add(byId("name").value, code);
      const item = document.createElement("li");
      item.append(button);
      return item;
    }));
  });
}

// A reload of the page comes back to the open panes, and lobby.js to their seats. The list is taken and removed on load: a
// duplicated tab gets a copy of the storage, and must not log in the same users.
function store() {
  const open = [...panes].filter(({ lobby }) => lobby.state !== "closed");
  sessionStorage.setItem(STORED, JSON.stringify(open.map(({ path, name, key }) => ({ path, name, key }))));
}

function takeStored() {
  const stored = sessionStorage.getItem(STORED);
  sessionStorage.removeItem(STORED);
  return JSON.parse(stored) ?? [];
}

function notice(text) {
  byId("notice").textContent = text;
}

// The part behind the # is not sent to the server, and stands in no log.
const wanted = new URLSearchParams(location.hash.slice(1));
byId("lobby").value = wanted.get("lobby") ?? "playground";
byId("add").onsubmit = (event) => {
  event.preventDefault();
  add(byId("name").value);
  byId("name").value = "";
};
byId("link").onclick = () => copyLink(byId("lobby").value);
for (const button of document.querySelectorAll("[data-way]")) {
  const { way } = button.dataset;
  button.onclick = () => add(byId("name").value, WAYS[way] ?? `${encodeURIComponent(byId("lobby").value)}?role=watch`);
}

async function copyLink(lobby) {
  const fields = new URLSearchParams({ lobby, name: freshName() });
  const address = `${location.origin}${location.pathname}#${fields}`;
  try {
    await navigator.clipboard.writeText(address);
    notice(`Copied: ${address}`);
  } catch {
    // There is no clipboard on a page without TLS that is not of this machine.
    notice(address);
  }
}

// The link of another window, opened in this one.
addEventListener("hashchange", () => location.reload());

addEventListener("pagehide", store);
addEventListener("pageshow", ({ persisted }) => persisted && takeStored());

const before = takeStored();
const isSameLink = before.length > 0 && (!wanted.has("name") || before.some(({ name }) => name === wanted.get("name")));
if (isSameLink) for (const pane of before) new Pane(pane);
else if (wanted.has("name")) add(wanted.get("name"));
else for (let n = 0; n < 2; n++) add();
// The latency changes without an event.
setInterval(() => panes.forEach((pane) => pane.lobby.state === "open" && pane.draw()), 2_000);
setInterval(() => panes.forEach((pane) => pane.lobby.countdown && pane.drawSummary()), 250);
