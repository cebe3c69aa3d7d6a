// A backend for lobbyd: node backend.mjs PORT SECRET_FILE
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const [port, file] = process.argv.slice(2);
const secret = readFileSync(file, "utf8").trim();
const users = { "token-of-ann": { allow: true, user: "ann", tier: "pro", role: "host", data: { rating: 1850 } } };

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const sentAt = request.headers["x-lobbyd-timestamp"] ?? "";
  const expected = Buffer.from("sha256=" + createHmac("sha256", secret).update(`${sentAt}.`).update(body).digest("hex"));
  const shown = Buffer.from(request.headers["x-lobbyd-signature"] ?? "");
  const isSigned = shown.length === expected.length && timingSafeEqual(shown, expected);
  if (!isSigned || Math.abs(Date.now() - Number(sentAt)) > 60_000) return response.writeHead(401).end();
  const call = JSON.parse(body);
  if (call.type === "events") for (const event of call.events) console.log(JSON.stringify(event));
  const answer = call.type === "connect" ? users[call.token] ?? { allow: false, reason: "unauthorized" } : {};
  response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(answer));
}).listen(Number(port), "127.0.0.1");
