let answerTo = null;

// Resolves to null if the dialog is cancelled, or to the message, the first field of a body.
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
