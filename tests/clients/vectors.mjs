// Runs all transcripts of tests/vectors/ against the client in Node.js: `node vectors.mjs [name]`. Prints a JSON line for each.
import fs from "node:fs";
import { fileURLToPath } from "node:url";
import { Lobby } from "../../src/client/browser/lobby.js";
import { runVector } from "./vector_runner.mjs";

const folder = fileURLToPath(new URL("../vectors/", import.meta.url));
const names = fs.readdirSync(folder).filter((name) => name.endsWith(".json") && (!process.argv[2] || name === `${process.argv[2]}.json`));
for (const file of names) {
  const vector = JSON.parse(fs.readFileSync(folder + file, "utf8"));
  console.log(JSON.stringify({ name: vector.name, error: await runVector(vector, Lobby) }));
}
process.exit(0);
