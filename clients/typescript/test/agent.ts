/**
 * A process that reads through the cache until it is told to stop, and writes its history as the checker in
 * `tests/history` of the repository reads it: a line of JSON for each record. Its loader asks the parent.
 *
 *     node agent.js '{"redisUrl": "…", "rows": 6, "maxSilence": 2, "broken": false}'
 */

import { createInterface } from "node:readline";
import { setImmediate as turn, setTimeout as pause } from "node:timers/promises";

import { Cache } from "../src/index.js";
import { NearStore } from "../src/near-store.js";

interface Settings {
  readonly redisUrl: string;
  readonly rows: number;
  readonly maxSilence: number;
  /** True: the near cache drops nothing. The checker must notice. */
  readonly broken: boolean;
}

interface Value {
  readonly versions: Record<string, number>;
}

const TRACE = "trace:";
const settings = JSON.parse(process.argv[2] as string) as Settings;
if (settings.broken) NearStore.prototype.drop = () => undefined;

const now = () => Number(process.hrtime.bigint()) / 1e9; // the clock of Python's time.monotonic()
const say = (line: unknown) => process.stdout.write(`${JSON.stringify(line)}\n`);
const finite = (seconds: number) => (Number.isFinite(seconds) ? seconds : null);

const cache = new Cache({
  redisUrl: settings.redisUrl,
  maxSilence: settings.maxSilence,
  logger: { info: console.error, warn: console.error },
});
const loads = new Map<number, (value: Value) => void>();
let loadNumber = 0;
let notices = 0;
let token: string | null = null;

for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(1));
const input = createInterface({ input: process.stdin });
input.on("line", (line) => {
  const said = JSON.parse(line);
  if ("loaded" in said) {
    loads.get(said.loaded)?.(said.value);
    loads.delete(said.loaded);
  } else {
    token = said.stop;
  }
});
input.on("close", () => process.exit(1)); // the parent has died

function load(row: string): Promise<Value> {
  loadNumber += 1;
  const number = loadNumber;
  say({ load: number, row });
  return new Promise((resolve) => loads.set(number, resolve));
}

async function listen(): Promise<void> {
  const events = cache.subscribe();
  say(["Opened", now()]);
  for await (const event of events) {
    const at = now();
    if (event.type === "reset") {
      notices += 1;
      say(["Reset", at]);
      continue;
    }
    const versions = event.keys
      .filter((key) => key.startsWith(TRACE))
      .map((key) => key.slice(TRACE.length).match(/^(.*):([0-9]+)$/) as RegExpMatchArray)
      .map(([, row, version]) => [row, Number(version)]);
    const patterns = event.patterns.filter((pattern) => pattern.startsWith(TRACE));
    if (versions.length + patterns.length > 0) {
      notices += 1;
      say(["Heard", at, versions, patterns]);
    }
  }
}

/** Read a row's value by its own key, or the one that is stored under a tag. */
function ask(kind: string, number: number): Promise<Value> {
  const tags = kind === "view" ? [`rows:${number}`] : [];
  return cache.getOrLoad<Value>(`${kind}:${number}`, () => load(`item:${number}`), { tags });
}

async function read(kind: string, number: number): Promise<void> {
  const before = notices;
  const began = now();
  const { staleness, attached } = cache;
  const { versions } = await ask(kind, number);
  const seen = Object.entries(versions);
  const claims = [finite(staleness), finite(cache.staleness), attached && Number.isFinite(staleness)];
  say(["Read", `${kind}:${number}`, began, now(), before, ...claims, null, seen]);
}

/** Say what the cache claims, after every event that it has delivered by now. */
async function sample(): Promise<void> {
  const at = now();
  const { staleness } = cache;
  await turn();
  if (Number.isFinite(staleness)) say(["Sample", at, at - staleness]);
}

async function converse(): Promise<void> {
  while (token === null) {
    await read(Math.random() < 0.3 ? "view" : "item", 1 + Math.floor(Math.random() * settings.rows));
    await sample();
    await pause(Math.random() * 4);
  }
}

const listening = listen();
await cache.start();
say({ started: cache.attached });
await Promise.all([converse(), converse(), converse()]);
await cache.waitFor(token as unknown as string, { timeout: 60 });
while (!cache.attached) await pause(10);
await sample();
for (let number = 1; number <= settings.rows; number += 1) {
  for (const kind of ["item", "view"]) {
    say(["Final", `${kind}:${number}`, Object.entries((await ask(kind, number)).versions)]);
  }
}
say({ ended: cache.stats });
await cache.close();
await listening;
process.exit(0);
