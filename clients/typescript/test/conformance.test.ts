/** The cases of `tests/conformance` in the repository, run with the objects of this client. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { contentOf } from "../src/contents.js";
import { MessageError } from "../src/errors.js";
import { matches, mayOverlap } from "../src/globs.js";
import { Logger } from "../src/logger.js";
import { decode, type Watermark } from "../src/messages.js";
import { KnownRules, PublishedRules } from "../src/rules.js";
import { Token } from "../src/tokens.js";
import { play, type Step } from "./played.js";

// This file runs from build/test of the package.
const CASES = new URL("../../../../tests/conformance/", import.meta.url);

function read(name: string): Step {
  return JSON.parse(readFileSync(fileURLToPath(new URL(name, CASES)), "utf8"));
}

const following = read("following.json");
for (const each of following["cases"] as Step[]) {
  const steps = (each["steps"] as Step[]).flatMap((step) =>
    "use" in step ? (following["sequences"][step["use"]] as Step[]) : [step],
  );
  const settings = { ...following["settings"], ...each["settings"] };
  test(each["name"], () => play({ settings, steps: [{ redis: following["redis"] }, ...steps] }));
}

test("globs", () => {
  const { cases, overlaps } = read("globs.json");
  for (const { pattern, key, matches: expected } of cases) {
    assert.equal(matches(pattern, key), expected, JSON.stringify([pattern, key]));
  }
  for (const { one, other, may_overlap } of overlaps) {
    assert.equal(mayOverlap(one, other), may_overlap, JSON.stringify([one, other]));
    assert.equal(mayOverlap(other, one), may_overlap, JSON.stringify([other, one]));
  }
});

test("messages", () => {
  for (const each of read("messages.json")["cases"] as Step[]) {
    const { payload, ...expected } = each;
    assert.deepEqual(decoded(payload, expected), expected, payload);
  }
});

function decoded(payload: string, expected: Step): Step {
  try {
    const message = decode(Buffer.from(payload));
    if (message.kind === "unknown version") return { is: message.kind };
    if (message.kind === "invalidation") {
      const { kind, ...fields } = message;
      return { is: kind, ...fields };
    }
    const { kind, seen, ageMs, ...fields } = message;
    const included = (expected["seen"] ?? []).map(([xid]: [string]) => [xid, seen.includes(BigInt(xid))]);
    return { is: kind, ...fields, seen: included, age_ms: ageMs };
  } catch (error) {
    assert.ok(error instanceof MessageError);
    return { is: "unreadable" };
  }
}

function rulesOf(published: unknown): PublishedRules {
  return PublishedRules.decode(Buffer.from(JSON.stringify(published)));
}

test("contents", () => {
  const { rules, cases } = read("contents.json");
  for (const { content, key, life, ...expected } of cases as Step[]) {
    const logger = new Logger({ info: () => undefined, warn: () => undefined });
    const known = new KnownRules(() => Promise.resolve(null), {
      defaultTtl: 60,
      detachedTtl: 30,
      reserved: "{unstale:0}",
      logger,
    });
    known.adopt(rulesOf(rules));
    const found = contentOf(Buffer.from(content as string));
    const told: Step = { is: found.is };
    if (found.is === "value" || found.is === "tagged") told["value"] = JSON.parse(found.json);
    if (found.is === "value") {
      told["near"] = known.secondsNear(key, found.hidesItsLife, life === "never" ? Infinity : life);
    }
    if (found.is === "tagged") told["tags"] = Object.fromEntries(found.tags);
    assert.deepEqual(told, expected, content);
  }
});

test("keys", () => {
  const { rules, cases } = read("keys.json");
  const published = rulesOf(rules);
  for (const each of cases as Step[]) {
    const { key, now } = each as { key: string; now: number };
    const owned = published.owns(key);
    const right = owned ? published.rightKey(key) : null;
    const told = { key, now, owned, right, ttl: published.ttlOf(key), lost: published.lostOwner(key, now) };
    assert.deepEqual(told, each, key);
  }
});

test("tokens", () => {
  for (const { token, readable, watermark, done } of read("tokens.json")["cases"] as Step[]) {
    if (!readable) {
      assert.throws(() => Token.parse(token), RangeError, token);
      continue;
    }
    const message = decode(Buffer.from(JSON.stringify(watermark))) as Watermark;
    assert.equal(Token.parse(token).appliedBy(message), done, token);
  }
});
