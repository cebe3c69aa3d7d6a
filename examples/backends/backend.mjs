// A backend for lobbyd: node backend.mjs PORT SECRET_FILE
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { buffer } from "node:stream/consumers";
const secret = readFileSync(process.argv[3], "utf8").trim();
if (secret.length < 16) throw new Error("the secret must have at least 16 bytes");
const users = new Map([["token-of-ann", { allow: true, user: "ann", tier: "pro", role: "host", data: { rating: 1850 } }]]);
const lastSeq = new Map(); // by boot
const isNew = ({ boot, seq }) => seq > (lastSeq.get(boot) ?? 0) && lastSeq.set(boot, seq); // otherwise it is repeated
async function handle(request, response) {
  const isShort = /^\d{1,6}$/.test(request.headers["content-length"]); // enough for max_header_bytes up to 200 KiB
  if (!isShort) return response.writeHead(413, { Connection: "close" }).end();
  const [body, sentAt] = [await buffer(request), request.headers["x-lobbyd-timestamp"] ?? ""];
  const expected = Buffer.from(`sha256=${createHmac("sha256", secret).update(`${sentAt}.`).update(body).digest("hex")}`);
  const shown = Buffer.from(request.headers["x-lobbyd-signature"] ?? "");
  const isSigned = shown.length === expected.length && timingSafeEqual(shown, expected);
  if (!isSigned || Math.abs(Date.now() - Number(sentAt)) > 60_000) return response.writeHead(401).end();
  const call = JSON.parse(body);
  const answer = call.type === "connect" ? users.get(call.token) ?? { allow: false, reason: "unauthorized" } : {};
  for (const event of call.events ?? []) if (isNew(event)) console.log(JSON.stringify(event));
  response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(answer));
}
createServer((request, response) => handle(request, response).catch((error) => {
  console.error(error.message); // "aborted" if the client has gone; without this the error would end the process
  response.destroy();
})).listen(Number(process.argv[2]), "127.0.0.1");
