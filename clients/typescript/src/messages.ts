/** Messages of the channel and entries of the log. They only ever remove, and never carry a value. */

import { MessageError } from "./errors.js";

export const VERSION = 1;
const MAX_MESSAGE_BYTES = 64 * 1024;

/** A `pg_snapshot`: the set of visible transactions. */
export class Snapshot {
  private constructor(
    private readonly xmin: bigint,
    private readonly xmax: bigint,
    private readonly xip: ReadonlySet<bigint>,
  ) {}

  /** Parse `xmin:xmax:xip,xip`; throws `MessageError`. */
  static parse(text: string): Snapshot {
    const found = /^([0-9]+):([0-9]+):((?:[0-9]+(?:,[0-9]+)*)?)$/.exec(text);
    if (found === null) throw new MessageError("a snapshot was not of the form xmin:xmax:xip");
    const xmin = BigInt(found[1] as string);
    const xmax = BigInt(found[2] as string);
    const xip = new Set(found[3] ? found[3].split(",").map(BigInt) : []);
    if (xmin < 1n || xmin > xmax || [...xip].some((xid) => xid < xmin || xid >= xmax)) {
      throw new MessageError("a snapshot's numbers are out of order");
    }
    return new Snapshot(xmin, xmax, xip);
  }

  /** Return true if the transaction is visible. */
  includes(xid: bigint): boolean {
    return xid < this.xmin || (xid < this.xmax && !this.xip.has(xid));
  }
}

/** The values of these keys, and of keys that match these patterns, are out of date. */
export interface Invalidation {
  readonly kind: "invalidation";
  readonly epoch: string;
  readonly id: number;
  /** Id of the entry before it. A receiver that saw another one last has missed something. */
  readonly prev: number;
  readonly keys: readonly string[];
  readonly patterns: readonly string[];
}

/** Every change that `seen` includes has been applied. */
export interface Watermark {
  readonly kind: "watermark";
  readonly epoch: string;
  readonly last: number;
  readonly seen: Snapshot;
  readonly lsn: string;
  readonly rules: string;
  /** Milliseconds since the worker began the read of `seen`. */
  readonly ageMs: number;
  readonly flushed: string;
  readonly database: string;
}

/** A message of a version that this release cannot read: drop everything and stay detached. */
export interface UnknownVersion {
  readonly kind: "unknown version";
  readonly version: unknown;
}

export type Message = Invalidation | Watermark | UnknownVersion;
export type Fields = Readonly<Record<string, unknown>>;

/** Decode a message of the channel; throws `MessageError`. */
export function decode(payload: Uint8Array): Message {
  const data = object(payload);
  if (data["v"] !== VERSION) return { kind: "unknown version", version: data["v"] };
  const epoch = text(data, "epoch", 64);
  if ("id" in data) {
    return {
      kind: "invalidation",
      epoch,
      id: whole(data, "id"),
      prev: whole(data, "prev"),
      keys: strings(data, "keys"),
      patterns: strings(data, "patterns"),
    };
  }
  const age = data["age_ms"];
  if (typeof age !== "number" || !(age >= 0 && age < 1e15)) {
    throw new MessageError("a watermark's age_ms is not a number of milliseconds");
  }
  return {
    kind: "watermark",
    epoch,
    last: whole(data, "last"),
    seen: Snapshot.parse(text(data, "seen", MAX_MESSAGE_BYTES)),
    lsn: text(data, "lsn", 32),
    rules: text(data, "rules", 128),
    ageMs: age,
    flushed: "flushed" in data ? text(data, "flushed", 32) : "",
    database: "database" in data ? text(data, "database", 64) : "",
  };
}

/** Decode a log entry, the inside of a message's JSON object; throws `MessageError`. */
export function decodeLogEntry(epoch: string, id: number, body: Uint8Array): Invalidation {
  const data = object(Buffer.concat([Buffer.from("{"), body, Buffer.from("}")]));
  return {
    kind: "invalidation",
    epoch,
    id,
    prev: id - 1,
    keys: strings(data, "keys"),
    patterns: strings(data, "patterns"),
  };
}

/** Return a WAL position that Postgres wrote (`16/B374D848`) as a number; 0 for any other text. */
export function lsn(position: string): bigint {
  const found = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(position);
  return found === null ? 0n : (BigInt(`0x${found[1]}`) << 32n) | BigInt(`0x${found[2]}`);
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Return the JSON object; throws `MessageError`. */
export function object(payload: Uint8Array): Fields {
  let data: unknown;
  try {
    data = JSON.parse(utf8.decode(payload));
  } catch {
    throw new MessageError("a message was not JSON");
  }
  if (typeof data !== "object" || data === null || Array.isArray(data)) {
    throw new MessageError("a message was not a JSON object");
  }
  return data as Fields;
}

export function text(data: Fields, name: string, limit: number): string {
  const value = data[name];
  if (typeof value !== "string" || value.length > limit) {
    throw new MessageError(`a message's ${name} is not a string of at most ${limit} characters`);
  }
  return value;
}

export function strings(data: Fields, name: string): readonly string[] {
  const value = data[name] === undefined ? [] : data[name];
  if (!Array.isArray(value) || !value.every((item) => typeof item === "string")) {
    throw new MessageError(`a message's ${name} is not a list of strings`);
  }
  return value as string[];
}

function whole(data: Fields, name: string): number {
  const value = data[name];
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw new MessageError(`a message's ${name} is not a whole number from 0 to 2**53`);
  }
  return value;
}
