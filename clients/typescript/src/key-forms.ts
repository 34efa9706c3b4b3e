/**
 * The spelling in which captures write the keys of a template. A change of the row with the uuid `3F0C…` removes
 * `user:3f0c…:profile`: a value that is cached under another spelling of the same id would never be removed.
 */

import { escapeExpression } from "./globs.js";

/** Most placeholders of any text in a form: matching takes time that grows with the key to this power. */
const MAX_FREE = 2;

type Kind = "int" | "uuid" | "bool" | "";

/** By kind of column: the text that captures write. */
const STRICT: Record<Kind, string> = {
  int: "(?:0|-?[1-9][0-9]*)",
  uuid: "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
  bool: "(?:True|False)",
  "": ".*",
};
/** By kind of column: every text that other programs read as such a value. */
const LOOSE: Record<Kind, string> = {
  int: "\\s*[+-]?[0-9][0-9_]*(?:\\.0*)?\\s*",
  uuid: "\\s*(?:urn:uuid:)?\\{?[0-9A-Fa-f]{8}(?:-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}\\}?\\s*",
  bool: "(?:[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[Yy][Ee][Ss]|[Nn][Oo]|[Oo][Nn]|[Oo][Ff][Ff]|[TtFfYyNn10])",
  "": ".*",
};
const TRUE = ["true", "yes", "on", "t", "y", "1"];

export class KeyForm {
  private readonly kinds: readonly Kind[];
  private readonly strict: RegExp;
  private readonly loose: RegExp;

  constructor(
    readonly pattern: string,
    /** The text before, between and after the placeholders. */
    private readonly literals: readonly string[],
    kinds: readonly string[],
  ) {
    this.kinds = kinds.map((kind) => (kind === "int" || kind === "uuid" || kind === "bool" ? kind : ""));
    this.strict = this.expression(STRICT);
    this.loose = this.expression(LOOSE);
  }

  /** True if the form cannot tell a right key from a wrong one. */
  get vague(): boolean {
    const free = this.kinds.filter((kind) => kind === "").length;
    return free > MAX_FREE || free === this.kinds.length;
  }

  /** Return `key` as captures write it; null if no row can have it. */
  right(key: string): string | null {
    if (this.strict.test(key)) return key;
    const found = this.loose.exec(key);
    if (found === null) return null;
    const texts = this.kinds.map((kind, at) => spelled(kind, found[at + 1] as string) + this.literals[at + 1]);
    return this.literals[0] + texts.join("");
  }

  private expression(by: Record<Kind, string>): RegExp {
    const [first, ...rest] = this.literals.map(escapeExpression);
    return new RegExp(`^${first}${rest.map((text, at) => `(${by[this.kinds[at] as Kind]})${text}`).join("")}$`, "s");
  }
}

/** Return the forms that can tell a right key from a wrong one; those of one pattern go together. */
export function usable(forms: readonly KeyForm[]): readonly KeyForm[] {
  const vague = new Set(forms.filter((form) => form.vague).map((form) => form.pattern));
  return forms.filter((form) => !vague.has(form.pattern));
}

function spelled(kind: Kind, raw: string): string {
  const text = raw.trim();
  if (kind === "uuid") {
    const digits = text.replace(/^urn:uuid:/, "").replace(/[{}-]/g, "").toLowerCase();
    return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  }
  if (kind === "bool") return TRUE.includes(text.toLowerCase()) ? "True" : "False";
  if (kind === "int") return BigInt((text.split(".")[0] as string).replaceAll("_", "").replace("+", "")).toString();
  return raw;
}
