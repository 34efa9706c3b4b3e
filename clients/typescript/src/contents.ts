/** What stands under a key in Redis: a value, a value under tags, a lease, or what this release cannot read. */

const TAGGED = Buffer.from("\0unstale:soft:tags\n");
const SPACE = 0x20;
const SEALED = 0x01;
const LINE_FEED = 0x0a;
const COLON = 0x3a;

export type Content =
  | { readonly is: "value"; readonly json: string; readonly hidesItsLife: boolean }
  | {
      readonly is: "tagged";
      readonly json: string;
      readonly hidesItsLife: boolean;
      /** The tags of the value with their versions: it is valid while all records hold these. */
      readonly tags: ReadonlyMap<string, string>;
    }
  /** A loader's or a missed read's mark: nobody has a value yet. */
  | { readonly is: "lease" }
  /** Compressed or encrypted. */
  | { readonly is: "sealed" }
  | { readonly is: "nothing" };

/** Say what the content of a key is. */
export function contentOf(data: Buffer | null): Content {
  if (data === null || data.length === 0) return { is: "nothing" };
  if (data[0] === SEALED) return { is: "sealed" };
  if (data[0] !== 0) return { is: "value", json: data.toString(), hidesItsLife: hidesItsLife(data) };
  return data.subarray(0, TAGGED.length).equals(TAGGED) ? tagged(data) : { is: "lease" };
}

/** Read `<version>:<length>:<tag>` of each tag, a line feed, and the JSON. */
function tagged(data: Buffer): Content {
  const tags = new Map<string, string>();
  let at = TAGGED.length;
  while (data[at] !== LINE_FEED) {
    const version = data.indexOf(COLON, at);
    const length = version < 0 ? -1 : data.indexOf(COLON, version + 1);
    if (length < 0) return { is: "lease" }; // not whole: nothing that may be answered
    const end = length + 1 + Number(data.toString("latin1", version + 1, length));
    if (!(end < data.length)) return { is: "lease" };
    tags.set(data.toString("utf8", length + 1, end), data.toString("latin1", at, version));
    at = end;
  }
  const json = data.subarray(at + 1);
  return { is: "tagged", json: json.toString(), hidesItsLife: hidesItsLife(json), tags };
}

/**
 * Return true if white space follows the JSON text. The value may then live shorter than its key's rule says, so
 * a reader asks how long before it keeps a copy.
 */
function hidesItsLife(json: Buffer): boolean {
  return json.length > 0 && (json.at(-1) as number) <= SPACE;
}
