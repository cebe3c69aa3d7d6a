// A click on a header sorts the whole list by it, the next click the other way round.
function headers(columns, of, load) {
  const sort = ({ target: { value } }) => {
    Object.assign(of, { sort: of.sort === `-${value}` ? value : `-${value}`, before: [] });
    attempt(load);
  };
  of.headers = columns.map(([text, value]) => el("th", {}, value ? button(text, sort, { value }) : text));
  return el("thead", {}, el("tr", {}, ...of.headers));
}

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

function search(of, load, text) {
  Object.assign(of, { search: text.trim(), before: [] });
  attempt(load);
}

$("#search").onsubmit = (event) => {
  event.preventDefault();
  search(lobbies, loadLobbies, $("#text").value);
};
// The cross of the field empties it.
$("#text").oninput = ({ target }) => target.value || $("#search").requestSubmit();

const view = { kind: null, id: "", search: "", sort: "", before: [], next: null };

// The address names what is shown, for the browser's way back.
function route() {
  const [, kind = null, encoded = ""] = /^#(lobby|user)\/(.+)$/s.exec(location.hash) ?? [];
  $("#view").replaceChildren();
  try {
    Object.assign(view, { kind, id: decodeURIComponent(encoded), search: "", sort: "", before: [] });
  } catch {
    view.kind = null;
  }
  if (!view.kind || $("#main").hidden) return;
  attempt(loadView);
  $("#detail").focus({ preventScroll: true });
  if (matchMedia("(width < 60rem)").matches) $("#detail").scrollIntoView();
}

async function loadView() {
  const { kind, id, search, sort, before } = view;
  if (!kind) return;
  const begin = before.at(-1);
  let answer = null;
  try {
    answer = await call(`${kind === "lobby" ? "lobbies" : "users"}/${segment(id)}?${query({ limit: PAGE, after: begin, search, sort })}`);
  } catch (error) {
    if (![400, 404].includes(error.status)) throw error;
  }
  if (kind === view.kind && id === view.id && search === view.search && sort === view.sort && begin === view.before.at(-1)) drawView(answer);
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
      el("input", { type: "search", maxLength: 64, placeholder: "Part of a user id", ariaLabel: "Member", onchange: ({ target }) => search(view, loadView, target.value) }),
      el("div", { className: "wide" }, el("table", {}, headers(columns, view, loadView), el("tbody"))),
      el("nav"),
      ...["Settings", "Data of the lobby", "Bans"].map((title) => el("details", {}, el("summary", {}, title), el("pre"))),
    );
  }
  const [title, empty, buttons, dl, part, wide, nav, ...details] = root.children;
  for (const child of [buttons, dl, wide, nav, ...details]) child.hidden = !answer;
  part.hidden = !answer?.users;
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
    set(details[at].lastChild, JSON.stringify(value, null, 1)?.replace(/[\p{Cf}\p{DI}\p{Zl}\p{Zp}]/gu, (piece) => `\\u{${number(piece)}}`) ?? "");
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
