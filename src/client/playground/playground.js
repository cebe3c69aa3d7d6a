// The playground: any number of clients of one server on one page. Each of them is a client of lobby.js with a socket of its own,
// through which this page sees all frames, and can hold them back or cut the connection.
import { Lobby } from "./lobby.js";

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

  constructor({ lobby, name, key }) {
    Object.assign(this, { lobbyCode: lobby, name, key: key ?? newKey() });
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
    const { list } = this;
    list.onscroll = () => (this.isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 30);
    new ResizeObserver(() => this.followEnd()).observe(list);
    this.show("broadcast");
    byId("panes").append(root);
    panes.add(this);
    this.connect();
  }

  connect() {
    const url = new URL(`ws/${encodeURIComponent(this.lobbyCode)}`, location.origin);
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
      this.draw(why);
    });
    lobby.on("members", changed);
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
    const items = [...members.values()].slice(0, 100).map(({ user, conn, away }) => {
      const item = document.createElement("li");
      item.textContent = user;
      item.classList.toggle("me", conn === me?.conn);
      item.classList.toggle("away", away && state !== "closed");
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
    add(this.name);
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

function add(name) {
  new Pane({ lobby: byId("lobby").value, name: name || freshName() });
}

// A reload of the page comes back to the open panes, and lobby.js to their seats. The list is taken and removed on load: a
// duplicated tab gets a copy of the storage, and must not log in the same users.
function store() {
  const open = [...panes].filter(({ lobby }) => lobby.state !== "closed");
  const list = open.map(({ lobbyCode, name, key }) => ({ lobby: lobbyCode, name, key }));
  sessionStorage.setItem(STORED, JSON.stringify(list));
}

function takeStored() {
  const list = sessionStorage.getItem(STORED);
  sessionStorage.removeItem(STORED);
  return JSON.parse(list) ?? [];
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
byId("link").onclick = async () => {
  const fields = new URLSearchParams({ lobby: byId("lobby").value, name: freshName() });
  const address = `${location.origin}${location.pathname}#${fields}`;
  try {
    await navigator.clipboard.writeText(address);
    notice(`Copied: ${address}`);
  } catch {
    // There is no clipboard on a page without TLS that is not of this machine.
    notice(address);
  }
};
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
