// The operators' page. Names are inserted as text.

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
const number = (piece) => piece.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
function name(text) {
  return el("bdi", {}, ...text.split(HIDDEN).map((piece, at) => (at % 2 ? el("i", {}, `U+${number(piece)}`) : piece)));
}
const link = (kind, id) => el("a", { href: `#${kind}/${encodeURIComponent(id)}` }, name(id));

// Makes the children of an element those of `items`. A child stays as its item does, with the focus.
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
