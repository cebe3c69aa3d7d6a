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
