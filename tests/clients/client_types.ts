// The types of the package, checked by tsc --strict. Each line below an `@ts-expect-error` must be an error.
import { join, Lobby, LobbyError, type Member } from "lobbyd";
import { useLobby } from "lobbyd/react";
type Says = { move: { to: string }; cursor: { x: number; y: number }; chat: string; resign: undefined };
const lobby = await join<Says>("/ws/chess", { token: () => Promise.resolve("t") });
lobby.on("move", (move, { from, seq }) => { const to: string = move.to; const who: string | null = from; const s: number | undefined = seq; });
lobby.on("join", (who) => { const user: string = who.user; });
lobby.on("leave", (who: Member, reason) => { const word: "left" | "unknown" | string = reason; });
lobby.on("gap", () => {});
lobby.on("chat", ({ data }) => data.toUpperCase());
lobby.on("connection", (state, why) => { const s: "idle" | "connecting" | "open" | "waiting" | "closed" = state; why?.reason; });
for (const who of lobby.members.values()) who.user.length;
const ack = await lobby.request("move", { to: "e4" }, { timeout: 5 });
const seq: number | undefined = ack.seq;
const sent: boolean = lobby.send("cursor", { x: 1, y: 2 });
lobby.request("chat", "hello"); lobby.request("resign");
lobby.request("direct", { to: "bob", data: 1 });
for await (const [data, meta] of lobby) { meta.from; }
using dispose = lobby;
lobby.once("move", ({ to }) => to);
const loose = new Lobby("ws://x/ws/y"); loose.request("anything", { a: 1 }); loose.on("anything", (data) => data.a);
const { members } = useLobby<Says>("/ws/chess"); members.map((who) => who.away);
// @ts-expect-error: no such type
lobby.request("mov", { to: "e4" });
// @ts-expect-error: a field is missing
lobby.request("move", {});
// @ts-expect-error: a wrong type
lobby.send("cursor", { x: "1", y: 2 });
// @ts-expect-error: the client sets `ref`
lobby.request("move", { to: "e4", ref: 1 });
// @ts-expect-error: the payload is missing
lobby.request("move");
// @ts-expect-error: no such event
lobby.on("jion", () => {});
// @ts-expect-error: the listener expects another message
lobby.on("move", (move: { x: number }) => move.x);
// @ts-expect-error: it cannot be set
lobby.state = "open";
// @ts-expect-error: a text arrives as `data`
lobby.on("chat", (text) => text.toUpperCase());

// ---- lobby control ----
type Game = { round: number; turn?: string };
type Player = { ready: boolean; team: "red" | "blue" };
const party = await join<Says, Game, Player>("/ws/~quick/chess?seats=4", { token: "t" });
const round: number | undefined = party.data.round;
const isReady: boolean | undefined = party.me.data.ready;
const isHost: boolean = party.host === party.me || party.me.host;
await party.set({ round: 2, turn: null }, { if: party.seq, timeout: 5 });
await party.me.set({ ready: true }); await party.set({ team: "red" }, { of: party.me }); await party.set({ ready: null }, { of: "s3" });
await party.kick(party.me, { ban: true }); await party.kick("bob"); await party.unban("bob"); await party.handOver(party.me); await party.handOver("s3");
await party.configure({ max: 4, name: null, password: "secret", tags: { game: "chess" }, start: { min: 2, ready: true, countdown_ms: 3000 } });
const code: string = party.code, watchers: number = party.watchers, at: number | null = party.countdown, most: number | null | undefined = party.settings.max;
party.on("data", (changes, who, { by }) => { const user: string | null = by; if (who) changes.team; else changes.round?.toFixed(); });
party.on("host", (who) => who?.user.length); party.on("countdown", (at) => at !== null && at - party.now());
party.on("settings", ({ locked }, { by }) => { const is: boolean | undefined = locked; });
party.on("start", (seats) => seats.map(({ user, conn }) => user + conn));
party.set({ round: 3 }).catch((error: LobbyError) => { const seq: number | undefined = error.details.seq; error.details.data?.round; });
using list = Lobby.list("/ws/~lobbies", { pool: "duel", tags: { game: "chess" }, signal: new AbortController().signal });
list.on("lobbies", (lobbies, more) => lobbies.map(({ code, members, max, has_password }) => code));
for await (const [lobbies, more] of list) lobbies[0]?.name;
const page = await Lobby.find("/ws/~lobbies", { tags: { game: "chess" }, after: null }); const next: string | null = page.next;
const view = useLobby<Says, Game, Player>("/ws/chess"); view.data.round; view.host?.data.team; view.settings.start?.min; view.countdown;
// Without lobby control the names of its events are the game's.
const own = await join<{ start: { map: string } }>("/ws/own"); own.on("start", ({ map }, { from }) => map); own.request("start", { map: "x" });
loose.data.anything; loose.set({ anything: 1 }); loose.on("start", (seats) => seats.length);
// @ts-expect-error: a wrong type of a value
party.set({ round: "2" });
// @ts-expect-error: no such key
party.set({ ruond: 2 });
// @ts-expect-error: it is a key of a member
party.set({ ready: true });
// @ts-expect-error: it is a key of the lobby
party.me.set({ round: 1 });
// @ts-expect-error: no such team
party.set({ team: "green" }, { of: party.me });
// @ts-expect-error: data are changed by `set`
party.data.round = 3;
// @ts-expect-error: settings are changed by `configure`
party.settings.max = 3;
// @ts-expect-error: nobody reads a password
party.settings.password;
// @ts-expect-error: no such setting
party.configure({ maximum: 3 });
// @ts-expect-error: `has_password` follows from `password`
party.configure({ has_password: true });
// @ts-expect-error: the host may be unknown
party.host.user;
// @ts-expect-error: the type of the game has other fields
own.on("start", (seats: { conn: string }[]) => seats);
// @ts-expect-error: a list has no members
list.members;
