/** Redis globs, matched byte by byte as Redis does. */

const ANY = -1;
const STAR = -2;
/** Compiled globs that are remembered. */
const REMEMBERED = 4096;

/** A byte, `ANY` byte, a `STAR`, or the bytes of a class as flags. */
type Step = number | Uint8Array;

export class Glob {
  private readonly steps: Step[] = [];

  constructor(readonly pattern: string) {
    const data = Buffer.from(pattern);
    for (let at = 0; at < data.length; ) {
      const byte = data[at] as number;
      if (byte === 0x2a /* * */) {
        if (this.steps.at(-1) !== STAR) this.steps.push(STAR);
        at += 1;
      } else if (byte === 0x3f /* ? */) {
        this.steps.push(ANY);
        at += 1;
      } else if (byte === 0x5c /* \ */ && at + 1 < data.length) {
        this.steps.push(data[at + 1] as number);
        at += 2;
      } else if (byte === 0x5b /* [ */) {
        const [members, end] = byteClass(data, at + 1);
        this.steps.push(members);
        at = end;
      } else {
        this.steps.push(byte);
        at += 1;
      }
    }
  }

  /** Return true if the glob matches the whole key. Only the last star is tried again, so the cost is bounded. */
  matches(key: Uint8Array): boolean {
    const { steps } = this;
    let step = 0;
    let at = 0;
    let star = -1;
    let resume = 0;
    while (at < key.length) {
      const wanted = steps[step];
      if (wanted === STAR) {
        star = step;
        step += 1;
        resume = at;
      } else if (wanted !== undefined && fits(wanted, key[at] as number)) {
        step += 1;
        at += 1;
      } else if (star >= 0) {
        step = star + 1;
        resume += 1;
        at = resume;
      } else {
        return false;
      }
    }
    while (steps[step] === STAR) step += 1;
    return step === steps.length;
  }
}

function fits(step: Step, byte: number): boolean {
  if (typeof step === "number") return step === ANY || step === byte;
  return step[byte] === 1;
}

/** Parse a class from behind its bracket; an unclosed one reaches to the end of the glob, as in Redis. */
function byteClass(data: Uint8Array, start: number): [Uint8Array, number] {
  const members = new Uint8Array(256);
  const negated = data[start] === 0x5e; /* ^ */
  let at = negated ? start + 1 : start;
  while (at < data.length && data[at] !== 0x5d /* ] */) {
    if (data[at] === 0x5c && at + 1 < data.length) {
      members[data[at + 1] as number] = 1;
      at += 2;
    } else if (data[at + 1] === 0x2d /* - */ && at + 2 < data.length) {
      const ends = [signed(data[at] as number), signed(data[at + 2] as number)];
      const [low, high] = [Math.min(...ends), Math.max(...ends)];
      for (let member = low; member <= high; member += 1) members[member & 255] = 1;
      at += 3;
    } else {
      members[data[at] as number] = 1;
      at += 1;
    }
  }
  if (negated) members.forEach((member, byte) => (members[byte] = 1 - member));
  return [members, at + 1];
}

/** Return a byte as C's `char` on x86, by which Redis compares the ends of a range. */
function signed(byte: number): number {
  return byte >= 128 ? byte - 256 : byte;
}

const globs = new Map<string, Glob>();

/** Return the compiled glob. */
export function glob(pattern: string): Glob {
  let found = globs.get(pattern);
  if (found === undefined) {
    if (globs.size >= REMEMBERED) globs.clear();
    found = new Glob(pattern);
    globs.set(pattern, found);
  }
  return found;
}

/** Return true if the glob matches the whole of `key`. */
export function matches(pattern: string, key: string): boolean {
  return glob(pattern).matches(Buffer.from(key));
}

/** Return the text that every key which matches the glob begins with. */
export function literalBeginning(pattern: string): string {
  let literal = "";
  for (let at = 0; at < pattern.length; at += 1) {
    const character = pattern[at] as string;
    if ("*?[".includes(character)) break;
    if (character === "\\" && at + 1 < pattern.length) at += 1;
    literal += pattern[at];
  }
  return literal;
}

/** Return false only if no key can match both globs: their literal beginnings differ. */
export function mayOverlap(one: string, other: string): boolean {
  const a = literalBeginning(one);
  const b = literalBeginning(other);
  return a.startsWith(b) || b.startsWith(a);
}

/** Return true if the pattern of a key template matches, with no placeholder that reaches across a colon. */
export function matchesSegments(pattern: string, key: string): boolean {
  const literals = [""];
  for (const part of Buffer.from(pattern).toString("latin1").match(/\\[^]|[^]/g) ?? []) {
    if (part === "*") literals.push("");
    else literals[literals.length - 1] += escapeExpression(part.length > 1 ? part.slice(1) : part);
  }
  // The first place of a literal is as good as any later one. The lookahead keeps it, so the cost is linear.
  const last = literals.length > 1 ? `[^:]*${literals.pop()}` : "";
  const middle = literals.slice(1).map((literal, at) => `(?=([^:]*?${literal}))\\${at + 1}`);
  return new RegExp(`^${literals[0]}${middle.join("")}${last}$`, "s").test(Buffer.from(key).toString("latin1"));
}

/** Quote what a regular expression would interpret. */
export function escapeExpression(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
}
