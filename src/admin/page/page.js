// The operators' page. It asks its own server only. The token is in a variable of this module. Names are inserted as text.

const POLL_MS = 2_000;
const LONGEST_WAIT_MS = 30_000;
const TIMEOUT_MS = 10_000;
const SHOWN_MS = 300_000;
// Pings are rare, so their latency is that of the last half minute.
const WINDOW = 15;
const PAGE = 50;
const MAX_LINES = 200;
const PUBLISH_AT_ONCE = 4;

const $ = (selector, root = document) => root.querySelector(selector);
const el = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const button = (textContent, onclick, more) => el("button", { type: "button", textContent, onclick, ...more });
const set = (element, text) => element.textContent === text || (element.textContent = text);
const time = (at) => el("time", {}, new Date(at).toLocaleTimeString());
const show = (selector, isShown) => ($(selector).hidden = !isShown);

// A name that a user has chosen. What cannot be seen, or changes how its surroundings look, is shown by its number.
const HIDDEN = /([\p{C}\p{DI}\p{Zl}\p{Zp}]|(?! )\p{Zs}|^ | $)/u;
function name(text) {
  const number = (piece) => el("i", {}, `U+${piece.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
  return el("bdi", {}, ...text.split(HIDDEN).map((piece, at) => (at % 2 ? number(piece) : piece)));
}
const link = (kind, id) => el("a", { href: `#${kind}/${encodeURIComponent(id)}` }, name(id));

// Makes the children of an element those of `items`. A child stays as long as its item, and so does the focus.
function list(parent, items, keyOf, make, update) {
  const old = new Map([...parent.children].map((child) => [child.key, child]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const child = old.get(key) ?? Object.assign(make(item), { key });
    old.delete(key);
    update(child, item);
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
  for (const child of old.values()) child.remove();
}

const facts = (parent, pairs) => list(parent, pairs, ([key]) => key, ([key]) => el("div", {}, el("dt", {}, key), el("dd")),
  (row, [, value]) => row.lastChild.textContent === String(value) || row.lastChild.replaceChildren(name(String(value))));

// ---- numbers ----

function short(number, units, step) {
  let unit = 0;
  while (Math.abs(number) >= step && unit < units.length - 1) [number, unit] = [number / step, unit + 1];
  return `${Number(number.toPrecision(number < 1000 ? 3 : 4))}${units[unit]}`;
}
const count = (number) => (Number.isInteger(number) ? number.toLocaleString("en") : short(number, ["", " k", " M"], 1000));
const bytes = (number) => short(number, [" B", " KiB", " MiB", " GiB"], 1024);
const span = (seconds) => short(seconds * 1e6, [" µs", " ms", " s"], 1000);
const perSecond = (format) => (number) => `${format(number)}/s`;
function age(ms) {
  const [size, unit] = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"]].find(([size]) => ms >= size) ?? [1000, "s"];
  return `${Math.floor((ms / size) * 10) / 10} ${unit}`;
}

// ---- the API ----

let token = null;
// Number of logins and logouts. The answer to an earlier request is dropped.
let login = 0;

const refusal = (status, message) => Object.assign(new Error(message), { status });

// An id as a part of a path. These two would lead to another path.
function segment(id) {
  if (id === "." || id === "..") throw refusal(400, "no path can contain this id");
  return encodeURIComponent(id);
}

const request = (more, signal) => ({ cache: "no-store", signal, headers: { ...(token && { Authorization: `Bearer ${token}` }), ...more } });

// `body` is JSON as text.
async function call(path, body) {
  const mine = login;
  const post = body && { method: "POST", body };
  const response = await fetch(path, { ...post, ...request(body && { "Content-Type": "application/json" }, AbortSignal.timeout(TIMEOUT_MS)) });
  const text = await response.text();
  if (mine !== login) throw refusal(401, "logged out meanwhile");
  if (response.status === 401) askForToken();
  const answer = response.headers.get("Content-Type")?.startsWith("application/json") ? JSON.parse(text) : text;
  if (!response.ok) throw refusal(response.status, answer.message ?? `status ${response.status}`);
  return answer;
}

// ---- logging in ----

function askForToken(isRefused = token !== null) {
  logOut();
  show("#refused", isRefused);
  if (!$("#login").open) $("#login").showModal();
}

function logOut() {
  token = null;
  login += 1;
  clearTimeout(timer);
  follower?.abort();
  job?.stop();
  [polls.length, isOffered, lastId] = [0, true, null];
  charts.forEach((chart) => (chart.points.length = 0));
  Object.assign(lobbies, { search: "", before: [] });
  view.kind = null;
  for (const selector of ["#lobbies tbody", "#view", "#figures", "#events ol", "#done ol"]) $(selector).replaceChildren();
  for (const selector of ["#main", "#events", "#forget"]) show(selector, false);
  $("#text").value = $("#user").value = $("#ask textarea").value = "";
  $("#ask").close();
  state("wait", "the operators' token is needed");
  set($("#facts"), "");
}

$("#login").onsubmit = (event) => {
  event.preventDefault();
  token = $("#token").value.trim();
  $("#token").value = "";
  $("#login").close();
  show("#forget", true);
  route();
  poll();
};
$("#login").onclose = () => show("#retry", !token);
$("#forget").onclick = () => askForToken(false);
// A page that the browser keeps has no token.
addEventListener("pagehide", logOut);
addEventListener("pageshow", ({ persisted }) => persisted && poll());

// ---- polling ----

let timer = 0;
let failures = 0;
let isPolling = false;
// The last figures, oldest first.
const polls = [];

function state(kind, text) {
  $("#state").dataset.state = kind;
  set($("#state"), text);
}

async function poll() {
  clearTimeout(timer);
  if (isPolling || document.hidden) return;
  isPolling = true;
  try {
    const [stats, metrics] = await Promise.all([call("stats"), call("metrics")]);
    failures = 0;
    take(stats, metrics);
    await Promise.all([lobbies.isCostly || loadLobbies(), loadView()]);
    follow();
  } catch (error) {
    if (error.status !== 401) {
      // Perhaps too many to be sorted.
      if (error.status === 409) lobbies.sort = view.sort = "";
      failures += 1;
      follower?.abort();
      state("bad", `${error.status ? error.message : "the server does not answer"}; asked again after ${wait() / 1000} s`);
    }
  } finally {
    isPolling = false;
  }
  if ($("#login").open) return;
  show("#retry", failures > 0);
  if (!document.hidden) timer = setTimeout(poll, wait());
}

const wait = () => Math.min(POLL_MS * 2 ** failures, LONGEST_WAIT_MS);

$("#retry").onclick = poll;
document.onvisibilitychange = () => {
  if (!document.hidden) return $("#login").open || poll();
  clearTimeout(timer);
  follower?.abort();
};

function take(stats, metrics) {
  const lines = metrics.split("\n").filter((line) => line && !line.startsWith("#")).map((line) => line.split(/ (?=\S+$)/));
  // After a restart, a server counts from 0.
  if (stats.uptime_ms < polls.at(-1)?.stats.uptime_ms) polls.length = 0;
  polls.push({ stats, samples: new Map(lines.map(([key, value]) => [key, Number(value)])) });
  if (polls.length > WINDOW + 1) polls.shift();
  show("#main", true);
  charts.forEach((chart) => chart.add(performance.now()));
  const { status, uptime_ms, active_lobbies, cluster, ticks, drain } = stats;
  state(status === "ready" ? "good" : "wait", drain ? `${status} for ${age(drain.elapsed_ms)}` : status);
  const version = lines.find(([key]) => key.startsWith("lobbyd_build_info"))?.[0].split('"')[1];
  const nodes = cluster && `node of ${cluster.nodes}, Redis ${cluster.reachable ? "answers" : "does not answer"}`;
  set($("#facts"), [version, `up ${age(uptime_ms)}`, nodes].filter(Boolean).join(" · "));
  set($("#count"), count(active_lobbies));
  $("#drain").disabled = Boolean(drain);
  show("#clock", ticks);
  if (ticks) {
    set($("#tick"), `tick ${ticks.tick}${ticks.paused ? ", paused" : ""}${ticks.slowdown > 1 ? `, ${ticks.slowdown} times slower` : ""}`);
    for (const each of document.querySelectorAll("#clock button")) each.disabled = each.value === String(!ticks.paused);
  }
  facts($("#figures"), flat(stats));
}

const flat = (figures, group = "") => Object.entries(figures).flatMap(([key, value]) =>
  typeof value === "object" ? flat(value ?? {}, key === "counters" ? "" : `${key}.`) : [[group + key, value]]);

// ---- charts ----

// Growth of a number in a second, since the poll before.
const rate = (of) => () => {
  const [before, now] = polls.slice(-2);
  return now && ((of(now) - of(before)) / (now.stats.uptime_ms - before.stats.uptime_ms)) * 1000;
};
const counter = (key) => rate(({ stats }) => stats.counters[key]);
const latest = (of) => () => of(polls.at(-1));
const stat = (key) => latest(({ stats }) => stats[key]);
const sample = (key) => ({ samples }) => samples.get(key);

// The quantile of what a histogram has counted in the last polls.
const quantile = (metric, share, window) => () => {
  const before = polls.at(-1 - Math.min(window, polls.length - 1)).samples;
  const buckets = [...polls.at(-1).samples].filter(([key]) => key.startsWith(`${metric}_bucket{`));
  const grown = buckets.map(([key, sum]) => [parseFloat(key.split('"')[1].replace("+Inf", "Infinity")), sum - before.get(key)]);
  const all = grown.at(-1)?.[1];
  if (!all) return null;
  const at = grown.findIndex(([, sum]) => sum >= share * all);
  const [lower, below] = grown[at - 1] ?? [0, 0];
  const [upper, sum] = grown[at];
  return upper === Infinity ? lower : lower + (upper - lower) * ((share * all - below) / (sum - below));
};
const quantiles = (metric, window = 1) => ({ p50: quantile(metric, 0.5, window), p99: quantile(metric, 0.99, window) });

class Chart {
  constructor(title, format, lines) {
    Object.assign(this, { title, format, lines: Object.entries(lines), points: [] });
    this.svg = $("#svg").content.firstElementChild.cloneNode(true);
    [this.value, this.rest] = [el("output"), el("small")];
    this.root = el("figure", {}, el("figcaption", {}, title), this.value, this.svg, this.rest);
    $("#charts").append(this.root);
  }

  add(now) {
    const values = this.lines.map(([, of]) => of()).map((value) => (Number.isFinite(value) ? value : null));
    this.points.push([now, ...values]);
    while (this.points[0][0] < now - SHOWN_MS) this.points.shift();
    const known = this.points.flatMap(([, ...all]) => all).filter((value) => value !== null);
    // Without ticks, for example, there is nothing to show.
    this.root.hidden = !known.length && polls.length > 1;
    const top = Math.max(0, ...known);
    this.lines.forEach((_, line) => this.svg.children[line].setAttribute("d", this.path(now, line, top)));
    const texts = values.map((value) => (value === null ? "–" : this.format(value)));
    const legend = this.lines.map(([label], line) => `${label} ${texts[line]}`.trim());
    const highest = `highest ${this.format(top)}`;
    set(this.value, texts.at(-1));
    this.rest.replaceChildren(...(legend.length > 1 ? legend.map((text) => el("i", {}, text)) : [highest]));
    this.root.title = highest;
    this.svg.ariaLabel = `${this.title}: ${legend.join(", ")}; ${highest}`;
  }

  path(now, line, top) {
    const width = Math.max(now - this.points[0][0], 20_000);
    let step = "M";
    return this.points.map(([at, ...values]) => {
      if (values[line] === null) return (step = "M"), "";
      const to = `${step}${(300 - ((now - at) / width) * 300).toFixed(1)} ${(38 - (top && values[line] / top) * 36).toFixed(1)}`;
      // A point alone is seen, too.
      return step === "M" ? ((step = "L"), `${to}h.1`) : to;
    }).join("");
  }
}

const charts = [
  ["Connections", count, { "": stat("total_connections") }],
  ["Lobbies", count, { "": stat("active_lobbies") }],
  ["Messages received", perSecond(count), { "": counter("messages_in") }],
  ["Frames to members", perSecond(count), { "": counter("frames_out") }],
  ["Bytes", perSecond(bytes), { in: counter("bytes_in"), out: counter("bytes_out") }],
  ["Frames lost", perSecond(count), { dropped: counter("frames_dropped"), replaced: counter("frames_replaced") }],
  ["Joins and leaves", perSecond(count), { joins: counter("joined"), leaves: counter("left") }],
  ["Duration of turns", span, quantiles("lobbyd_turn_seconds")],
  ["Load of the loop", (share) => `${(share * 100).toFixed(1)} %`, { "": rate(sample("lobbyd_turn_seconds_sum")) }],
  ["Ping latency, 30 s", span, quantiles("lobbyd_ping_latency_seconds", WINDOW)],
  ["Health latency, 30 s", span, quantiles("lobbyd_health_latency_seconds", WINDOW)],
  ["Lateness of ticks", span, quantiles("lobbyd_tick_lateness_seconds")],
  ["Members that lag", count, { "": latest(sample("lobbyd_lagging_connections")) }],
  ["Memory", bytes, { "": latest(sample("process_resident_memory_bytes")) }],
].map((chart) => new Chart(...chart));

// ---- sorting ----

// The headers of a list. A click on one sorts the whole list by it, the next click the other way round.
function headers(columns, of, load) {
  const sort = ({ target: { value } }) => {
    Object.assign(of, { sort: of.sort === `-${value}` ? value : `-${value}`, before: [] });
    attempt(load);
  };
  of.headers = columns.map(([text, value]) => el("th", {}, value ? button(text, sort, { value }) : text));
  return el("thead", {}, el("tr", {}, ...of.headers));
}

// ---- lobbies ----

// `before`: where the pages up to this one begin.
const lobbies = { search: "", sort: "", before: [], next: null, isCostly: false };
$("#lobbies").prepend(headers([["Lobby"], ["Members", "members"], ["Away", "away"], ["Last seq", "seq"], ["Age", "age"]], lobbies, loadLobbies));

const query = (of) => new URLSearchParams(Object.entries(of).filter(([, value]) => (value ?? "") !== ""));

async function loadLobbies() {
  const { search, sort, before } = lobbies;
  const begin = before.at(-1);
  const found = [];
  let [next, requests] = [begin, 0];
  do {
    const page = await call(`lobbies?${query({ limit: PAGE - found.length, after: next, search, sort })}`);
    // Something else is asked for.
    if (search !== lobbies.search || sort !== lobbies.sort || begin !== lobbies.before.at(-1)) return;
    found.push(...page.lobbies);
    next = page.next;
    if ((requests += 1) > 3) drawLobbies(found, next, "searching…");
  } while (next !== null && found.length < PAGE);
  // A long search is not repeated by itself.
  lobbies.isCostly = requests > 3;
  drawLobbies(found, next, search || begin !== undefined ? "No such lobby." : "There are no lobbies.");
}

const cells = (count, ...first) => [el("td", {}, ...first), ...Array.from({ length: count }, () => el("td"))];

function drawLobbies(found, next, otherwise) {
  list($("#lobbies tbody"), found, ({ lobby }) => lobby, ({ lobby }) => el("tr", {}, ...cells(4, link("lobby", lobby), el("span"))),
    (row, { members, away, seq, epoch, locked, watchers, name: title, has_password, listed, reserved }) => {
      tags($("span", row), [title && name(title), locked && "locked", watchers && `${watchers} watching`, reserved && `${reserved} reserved`, has_password && "password", listed && "listed"]);
      [members, away, seq, age(Math.max(0, Date.now() - epoch / 1000))].forEach((value, at) => set(row.cells[at + 1], String(value)));
    });
  show("#lobbies", found.length);
  show("#no-lobbies", !found.length);
  set($("#no-lobbies"), otherwise);
  drawPages($("#pages"), lobbies, next, loadLobbies);
}

function tags(parent, all) {
  const shown = all.filter(Boolean).map((tag) => el("span", { className: "tag" }, tag));
  if (parent.textContent !== shown.map((tag) => tag.textContent).join("")) parent.replaceChildren(...shown);
}

// Buttons to other pages of a list, and marks on its headers.
function drawPages(nav, of, next, load) {
  of.next = next;
  const go = (change) => () => {
    change();
    attempt(load);
  };
  if (!nav.firstChild) nav.append(button("Previous", go(() => of.before.pop())), button("Next", go(() => of.before.push(of.next))), el("span"));
  nav.hidden = next === null && !of.before.length;
  nav.children[0].disabled = !of.before.length;
  nav.children[1].disabled = next === null;
  set(nav.children[2], `page ${of.before.length + 1}`);
  for (const th of of.headers) {
    const { value } = th.firstChild;
    th.ariaSort = { [value]: "ascending", [`-${value}`]: "descending" }[of.sort] ?? null;
  }
}

async function attempt(load) {
  try {
    await load();
  } catch (error) {
    if (error.status !== 401) note("bad", error.message);
  }
}

$("#search").onsubmit = (event) => {
  event.preventDefault();
  Object.assign(lobbies, { search: $("#text").value.trim(), before: [] });
  attempt(loadLobbies);
};
// The cross of the field empties it.
$("#text").oninput = ({ target }) => target.value || $("#search").requestSubmit();

// ---- one lobby, one user ----

const view = { kind: null, id: "", sort: "", before: [], next: null };

// The address names what is shown, for the browser's way back.
function route() {
  const [, kind = null, encoded = ""] = /^#(lobby|user)\/(.+)$/s.exec(location.hash) ?? [];
  $("#view").replaceChildren();
  try {
    Object.assign(view, { kind, id: decodeURIComponent(encoded), sort: "", before: [] });
  } catch {
    view.kind = null;
  }
  if (!view.kind || $("#main").hidden) return;
  attempt(loadView);
  $("#detail").focus({ preventScroll: true });
  if (matchMedia("(width < 60rem)").matches) $("#detail").scrollIntoView();
}

async function loadView() {
  const { kind, id, sort, before } = view;
  if (!kind) return;
  const begin = before.at(-1);
  let answer = null;
  try {
    answer = await call(`${kind === "lobby" ? "lobbies" : "users"}/${segment(id)}?${query({ limit: PAGE, after: begin, sort })}`);
  } catch (error) {
    if (![400, 404].includes(error.status)) throw error;
  }
  if (kind === view.kind && id === view.id && sort === view.sort && begin === view.before.at(-1)) drawView(answer);
}

function drawView(answer) {
  const { kind, id } = view;
  const isLobby = kind === "lobby";
  const root = $("#view");
  const columns = [[isLobby ? "Member" : "Lobby"], ["Queued", isLobby && "queued_bytes"], ["Idle", isLobby && "idle_ms"], [""]];
  if (!root.firstChild) {
    root.append(
      el("h2", {}, isLobby ? "Lobby " : "User ", name(id), el("span")),
      el("p", { className: "empty" }, isLobby ? "No lobby of this code exists now." : "This user is not connected now."),
      el("div", { className: "buttons" }),
      el("dl"),
      el("div", { className: "wide" }, el("table", {}, headers(columns, view, loadView), el("tbody"))),
      el("nav"),
      ...["Settings", "Data of the lobby", "Bans"].map((title) => el("details", {}, el("summary", {}, title), el("pre"))),
    );
  }
  const [title, empty, buttons, dl, wide, nav, ...details] = root.children;
  for (const child of [buttons, dl, wide, nav, ...details]) child.hidden = !answer;
  empty.hidden = Boolean(answer);
  tags(title.lastChild, [answer?.locked && "locked"]);
  if (!answer) return;
  if (!buttons.firstChild) buttons.append(...(isLobby ? lobbyButtons : userButtons)(id));
  const { users, seats, next, lobby, user, data, settings, bans, locked, reserved_users, ...rest } = answer;
  for (const each of buttons.children) each.hidden = each.value === String(locked);
  facts(dl, flat(rest));
  list($("tbody", wide), users ?? seats, ({ conn }) => conn, seatRow, updateSeat);
  drawPages(nav, view, next, loadView);
  [settings, data, bans && { bans, reserved_users }].forEach((value, at) => {
    details[at].hidden = value === undefined;
    set(details[at].lastChild, JSON.stringify(value, null, 1) ?? "");
  });
}

function seatRow({ user, lobby }) {
  const row = el("tr", {}, ...cells(3, user ? link("user", user) : link("lobby", lobby), el("span"), el("div", { className: "hint" })));
  if (user) row.lastChild.append(kick("users", user, { ariaLabel: `Kick ${user}` }));
  return row;
}

function updateSeat(row, { conn, role, away, node, peer, address, queued_bytes, idle_ms }) {
  tags($("span", row), [away && "away", role && "watches"]);
  const isDirect = peer?.replace(/[[\]]/g, "").startsWith(`${address}:`);
  const from = isDirect ? [peer] : [address, peer && `by ${peer}`];
  set($(".hint", row), [conn, ...from, node && `node ${node}`].filter(Boolean).join(" · "));
  set(row.cells[1], queued_bytes === undefined ? "" : bytes(queued_bytes));
  set(row.cells[2], idle_ms === undefined ? "" : age(idle_ms));
}

$("#find").onsubmit = (event) => {
  event.preventDefault();
  const hash = `#user/${encodeURIComponent($("#user").value)}`;
  if (location.hash === hash) route();
  else location.hash = hash;
};
addEventListener("hashchange", route);

// ---- commands ----

let answerTo = null;

// Shows a dialog. Resolves to null when it is cancelled, or to the message, the first field of a body.
function ask({ title, text, message, word, verb, isDangerous }) {
  $("#ask-title").replaceChildren(...title);
  set($("#ask-text"), text);
  for (const selector of ["#ask-message", "#ask-as"]) show(selector, message);
  show("#ask-word", word);
  set($("#ask-word span"), `Type ${word} to confirm`);
  $("#ask-word input").value = "";
  set($("#ask-problem"), "");
  set($("#ask .main"), verb);
  $("#ask .main").classList.toggle("danger", Boolean(isDangerous));
  $("#ask").showModal();
  $(message ? "#ask textarea" : word ? "#ask input" : "#ask [value=cancel]").focus();
  return new Promise((resolve) => (answerTo = { resolve, message, word }));
}

$("#ask").onsubmit = (event) => {
  event.preventDefault();
  const { resolve, message, word } = answerTo;
  const [text, as] = [$("#ask textarea").value, $("#ask select").value];
  if (word && $("#ask-word input").value.trim() !== word) return set($("#ask-problem"), `Type ${word}, or cancel.`);
  try {
    // Sent as it was written: JavaScript would round long numbers.
    if (message && as === "data") JSON.parse(text);
  } catch (error) {
    return set($("#ask-problem"), `This is not JSON: ${error.message}. A text is JSON in quotation marks.`);
  }
  resolve(`"${as}":${as === "data" ? text : JSON.stringify(text)}`);
  $("#ask").close();
};
$("#ask").onclose = () => $("#ask").open || answerTo?.resolve(null);
$("#ask [value=cancel]").onclick = () => $("#ask").close();

// Sends a command and notes its outcome. Returns whether that is known.
async function command(title, path, body, outcome = () => "done") {
  const nodes = title.map((node) => node.cloneNode?.(true) ?? node);
  try {
    const answer = await call(path, body);
    note("", ...nodes, `: ${outcome(answer)}`);
    poll();
    return true;
  } catch (error) {
    if (error.status === 401) return true;
    const isKnown = error.status && error.status !== 504;
    note("bad", ...nodes, `: ${isKnown ? "" : "it is not known whether this was done: "}${error.message}`);
    return isKnown;
  }
}

// A button for a command. It asks first if there is a text.
const action = (label, id, path, body, { text, word, outcome, ...more } = {}) => button(label, async () => {
  const verb = label.replace("…", "");
  const title = id ? [`${verb} `, name(id)] : [verb];
  const isSure = !text || (await ask({ title, text, word, verb, isDangerous: more.className })) !== null;
  if (isSure) command(title, path, typeof body === "function" ? body() : JSON.stringify(body), outcome);
}, more);

function note(className, ...nodes) {
  line($("#done ol"), el("li", { className }, time(Date.now()), " ", ...nodes));
}

function line(parent, item) {
  parent.prepend(item);
  while (parent.childElementCount > MAX_LINES) parent.lastElementChild.remove();
}

const sent = ({ queued, dropped, seq, repeated }) =>
  `${count(queued)} queued, ${count(dropped)} dropped${seq === undefined ? "" : `, seq ${seq}`}${repeated ? ", published before" : ""}`;
const closing = (answer) => `connections to close: ${answer.closing}`;
const pinged = ({ latency_ms }) => (latency_ms === null ? "no answer within 2 s" : span(latency_ms / 1000));
const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

// A message that may have been published. It is sent under the same key again.
let unsure = null;

async function publish(lobby) {
  const title = ["Publish to ", name(lobby)];
  const message = await ask({ title, verb: "Publish", message: true, text: "Every member gets this as a message from the server." });
  if (message === null) return;
  const what = `${lobby} ${message}`;
  const key = unsure?.what === what ? unsure.key : newKey();
  const isKnown = await command(title, `lobbies/${segment(lobby)}/publish`, `{${message},"idempotency_key":"${key}"}`, sent);
  unsure = isKnown ? null : { what, key };
}

async function send(user) {
  const title = ["Send to ", name(user)];
  const message = await ask({ title, verb: "Send", message: true, text: "The user gets this as a direct message from the server." });
  if (message !== null) command(title, `users/${segment(user)}/send`, `{${message}}`, sent);
}

const danger = { className: "danger" };
const KICKED = "Closes these connections with 4003 kicked. The pages do not come back.";
const RECONNECTED = "Closes these connections with 4103 reconnect. The pages come back.";
const ending = (label, reconnect, text) => (kind, id, more) => action(label, id, `${kind}/${segment(id)}/kick`, { reconnect }, { text, outcome: closing, ...more });
const kick = (kind, id, more) => ending("Kick…", false, KICKED)(kind, id, { ...danger, ...more });
const reconnect = ending("Ask to reconnect…", true, RECONNECTED);

const lobbyButtons = (id) => [
  button("Publish…", () => publish(id)),
  action("Lock…", id, `lobbies/${segment(id)}/lock`, { locked: true }, { value: "true", text: "Admits no new member. The lock ends with the lobby." }),
  action("Unlock…", id, `lobbies/${segment(id)}/lock`, { locked: false }, { value: "false", text: "Admits new members again." }),
  reconnect("lobbies", id),
  kick("lobbies", id, { textContent: "Kick all…" }),
  action("Close…", id, `lobbies/${segment(id)}/close`, {}, { text: "Locks the lobby, and closes all its connections with 4006 lobby_closed.", outcome: closing, ...danger }),
];
const userButtons = (id) => [
  button("Send…", () => send(id)),
  action("Ping", id, `users/${segment(id)}/ping`, { timeout_ms: 2000 }, { outcome: pinged }),
  reconnect("users", id),
  kick("users", id),
];

// ---- the server ----

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

// ---- events ----

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
