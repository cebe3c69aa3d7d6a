// Runs all transcripts of tests/vectors/ against the client in Node.js: `node vectors.mjs [name]`. Prints a JSON line for each: its error, or why it is skipped.
import fs from "node:fs";
import { fileURLToPath } from "node:url";
import { Lobby } from "../../src/client/browser/lobby.js";
import { SKIPPED, runVector } from "./vector_runner.mjs";

const folder = fileURLToPath(new URL("../vectors/", import.meta.url));
const names = fs.readdirSync(folder).filter((name) => name.endsWith(".json") && (!process.argv[2] || name === `${process.argv[2]}.json`));
for (const file of names) {
  const vector = JSON.parse(fs.readFileSync(folder + file, "utf8"));
  const skipped = SKIPPED[vector.name];
  console.log(JSON.stringify({ name: vector.name, skipped, error: skipped ? "" : await runVector(vector, Lobby) }));
}
process.exit(0);
