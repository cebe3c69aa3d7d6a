// The package in Node.js with npm's `ws`, and its hook in React with jsdom: `node client_node.mjs PORT`. Prints a JSON line per claim.
import { getEventListeners, once } from "node:events";
import { createServer } from "node:http";
import { JSDOM } from "jsdom";
import { WebSocket } from "ws";

const port = process.argv[2];
const url = (name) => `ws://127.0.0.1:${port}/ws/${name}`;
const dom = new JSDOM("<div id=root></div>", { url: "http://127.0.0.1/" });
const failures = [];
process.on("unhandledRejection", (reason) => failures.push(`unhandled rejection: ${reason}`));

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const equal = (got, wanted, what) => {
  if (JSON.stringify(got) !== JSON.stringify(wanted)) throw new Error(`${what} is ${JSON.stringify(got)} instead of ${JSON.stringify(wanted)}`);
};
async function until(what, holds) {
  for (let n = 0; !holds(); n++) {
    if (n > 6_000) throw new Error(`not within a minute: ${what}`);
    await sleep(10);
  }
}

const claims = {
  async "the package imports without any global of a browser"() {
    const { join, Lobby, LobbyError } = await import("lobbyd");
    const ann = await join(url("node"), { token: "ann", WebSocket });
    const bob = await join(url("node"), { token: () => Promise.resolve("bob"), WebSocket });
    const heard = [];
    bob.on("move", (move, { from }) => heard.push(from, move));
    await ann.request("move", { to: "e4" });
    await until("bob hears it", () => heard.length);
    equal(heard, ["ann", { to: "e4" }], "what bob hears");
    ann.leave();
    bob.leave();
    const refused = await join(url("node").replace("/ws/", "/elsewhere/"), { token: "ann", WebSocket }).catch((error) => error);
    equal([refused instanceof LobbyError, refused.code], [true, "bad_lobby_code"], "the refusal");
    equal(new Lobby("/ws/chess").state, "idle", "the state of a lobby that is not connected, on a server that renders pages");
  },

  async "an async listener that throws is reported, and a timeout may be without an end"() {
    const { join } = await import("lobbyd");
    const reported = [];
    globalThis.reportError = (error) => reported.push(error.message);
    const ann = await join(url("async"), { token: "ann", WebSocket });
    const bob = await join(url("async"), { token: "bob", WebSocket });
    const heard = [];
    bob.on("move", async () => {
      throw new Error("of a listener");
    });
    bob.once("move", () => Promise.reject(new Error("of another")));
    bob.on("move", ({ to }) => heard.push(to));
    await ann.request("move", { to: "e4" }, { timeout: Infinity });
    await until("bob hears it, and both are reported", () => heard.length && reported.length > 1);
    equal([heard, reported], [["e4"], ["of a listener", "of another"]], "what bob hears, and what is reported");
    delete globalThis.reportError;
    ann.leave();
    bob.leave();
  },

  async "an address that can never work is refused at once, also by the browser"() {
    const { join, Lobby } = await import("lobbyd");
    const reported = [];
    globalThis.reportError = (error) => reported.push(error.message);
    let attempts = 0;
    class Refusing {
      constructor() {
        attempts += 1;
        throw new DOMException("an insecure address on a secure page", "SecurityError");
      }
    }
    const codeOf = (promise) => promise.then(() => "no error", ({ code }) => code);
    const token = () => {
      attempts += 1;
      return "ann";
    };
    equal(await codeOf(join("ftp://127.0.0.1/ws/chess", { token, WebSocket: Refusing })), "bad_url", "the code of an address");
    equal(await codeOf(join(url("no!lobby"), { token, WebSocket: Refusing })), "bad_lobby_code", "the code of a name");
    equal([attempts, reported], [0, []], "attempts before, and reports");
    equal(await codeOf(join(url("chess"), { token: "ann", WebSocket: Refusing })), "bad_url", "the code of the browser's refusal");
    await sleep(600);
    equal([attempts, reported], [1, ["an insecure address on a secure page"]], "attempts, and reports");
    const listing = async () => Lobby.list("/ws/~lobbies", { WebSocket });
    equal(await codeOf(listing()), "bad_url", "the code of a list without a page");
    equal(await codeOf(Lobby.find("nowhere")), "bad_url", "the code of a search");
    delete globalThis.reportError;
  },

  async "a listener that was removed leaves nothing in its signal"() {
    const { Lobby } = await import("lobbyd");
    const lobby = new Lobby(url("signals"), { token: "ann", WebSocket });
    const { signal } = new AbortController();
    const remove = lobby.on("move", () => {}, { signal });
    lobby.once("binary", () => {}, { signal })();
    equal(getEventListeners(signal, "abort").length, 1, "the number of listeners of the signal");
    remove();
    equal(getEventListeners(signal, "abort").length, 0, "the number of listeners of the signal");
  },

  async "find fails if the answer is no list"() {
    const { Lobby } = await import("lobbyd");
    const server = createServer((request, response) => response.end("<p>Hello</p>")).listen(0, "127.0.0.1");
    await once(server, "listening");
    const error = await Lobby.find(`ws://127.0.0.1:${server.address().port}/ws/~lobbies`).catch((error) => error);
    equal([error.code, error.details?.status], ["unavailable", 200], "the error");
    server.close();
  },

  async "a component that a server renders for two users is two lobbies"() {
    const { createElement } = await import("react");
    const { renderToString } = await import("react-dom/server");
    const { useLobby } = await import("lobbyd/react");
    const Seat = ({ user }) => createElement("p", null, useLobby(url("rendered"), { token: user }).lobby.options.token);
    const rendered = ["ann", "bob"].map((user) => renderToString(createElement(Seat, { user })));
    equal(rendered, ["<p>ann</p>", "<p>bob</p>"], "what is rendered");
  },

  async "a component under StrictMode opens one socket, and two components share it"() {
    for (const name of ["window", "document", "navigator"]) {
      Object.defineProperty(globalThis, name, { value: name === "window" ? dom.window : dom.window[name], configurable: true, writable: true });
    }
    globalThis.IS_REACT_ACT_ENVIRONMENT = false;
    const { createElement, StrictMode } = await import("react");
    const { createRoot } = await import("react-dom/client");
    const { useLobby } = await import("lobbyd/react");
    let opened = 0;
    let open = 0;
    class Counted extends WebSocket {
      constructor(...values) {
        super(...values);
        opened += 1;
        open += 1;
        this.on("close", () => (open -= 1));
      }
    }
    let lobby;
    const Seat = ({ name }) => {
      const seat = useLobby(url("react"), { token: () => "ann", WebSocket: Counted });
      ({ lobby } = seat);
      return createElement("p", null, `${name} ${seat.state} ${seat.members.map((member) => member.user)}`);
    };
    const shown = () => document.getElementById("root").textContent;
    const root = createRoot(document.getElementById("root"));
    const both = (...names) => createElement(StrictMode, null, ...names.map((name) => createElement(Seat, { name, key: name })));
    root.render(both("a ", "b "));
    await until("both are open", () => shown() === "a  open annb  open ann");
    equal(opened, 1, "the number of sockets");
    const { join } = await import("lobbyd");
    const bob = await join(url("react"), { token: "bob", WebSocket });
    await until("bob is shown", () => shown() === "a  open ann,bobb  open ann,bob");
    root.render(both("b "));
    await until("one of them is gone", () => shown() === "b  open ann,bob");
    await sleep(50);
    equal([shown(), opened, lobby.state], ["b  open ann,bob", 1, "open"], "what is shown, after one of them is gone");
    root.unmount();
    await until("the seat is given up", () => open === 0);
    equal(lobby.state, "closed", "the state");
    await until("bob is alone", () => bob.members.size === 1);
    createRoot(document.getElementById("root")).render(both("c "));
    await until("it is shown again", () => shown() === "c  open bob,ann");
    equal(opened, 2, "the number of sockets");
    bob.leave();
  },

  async "a component renders again when data, host, settings or countdown change"() {
    const { createElement } = await import("react");
    const { createRoot } = await import("react-dom/client");
    const { useLobby } = await import("lobbyd/react");
    const { join } = await import("lobbyd");
    let lobby;
    const Room = () => {
      const seat = useLobby(url("room"), { token: "ann", WebSocket });
      ({ lobby } = seat);
      const names = seat.members.map(({ user, data, host }) => `${user}${data.ready ? "+" : ""}${host ? "*" : ""}`);
      return createElement("p", null, `${names} ${seat.data.round} ${seat.settings.name} ${seat.host?.user} ${seat.countdown !== null}`);
    };
    document.body.innerHTML = "<div id=room></div>";
    const shown = () => document.getElementById("room").textContent;
    createRoot(document.getElementById("room")).render(createElement(Room));
    await until("it is open", () => shown() === "ann* undefined null ann false");
    const bob = await join(url("room"), { token: "bob", WebSocket });
    await lobby.set({ round: 1 });
    await lobby.configure({ name: "Friday", start: { min: 2, ready: true, countdown_ms: 60_000 } });
    await bob.me.set({ ready: true });
    await until("the data are shown", () => shown() === "ann*,bob+ 1 Friday ann false");
    await lobby.me.set({ ready: true });
    await until("the countdown is shown", () => shown() === "ann+*,bob+ 1 Friday ann true");
    await lobby.handOver(bob.me);
    await until("the host is shown", () => shown() === "ann+,bob+* 1 Friday bob true");
    bob.leave();
    lobby.leave();
  },
};

for (const [name, claim] of Object.entries(claims)) {
  let failure = "";
  try {
    await claim();
  } catch (error) {
    failure = error.stack;
  }
  console.log(JSON.stringify({ name, error: failure }));
}
console.log(JSON.stringify({ name: "no unhandled rejection in Node.js", error: failures.join("\n") }));
process.exit(0);
