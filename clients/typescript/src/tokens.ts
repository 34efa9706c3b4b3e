/** `cache.waitFor`: tokens of transactions, and the callers that wait for one to be applied. */

import { CacheClosed, WaitTimeout } from "./errors.js";
import { lsn, type Watermark } from "./messages.js";

const TOKEN = /^([0-9]{1,20}(?::[0-9]{1,10}){1,3}):([0-9]{1,20}):([0-9A-F]{1,8}\/[0-9A-F]{1,8})$/;

/** What `select unstale.token()` returned: `<database identity>:xid:lsn`. */
export class Token {
  private constructor(
    readonly database: string,
    private readonly xid: bigint,
    private readonly lsn: bigint,
  ) {}

  /** Parse a token; throws RangeError. */
  static parse(text: string): Token {
    const found = TOKEN.exec(text);
    if (found === null) {
      throw new RangeError(
        `${JSON.stringify(String(text).slice(0, 60))} is not a token; pass the result of \`select unstale.token()\``,
      );
    }
    return new Token(found[1] as string, BigInt(found[2] as string), lsn(found[3] as string));
  }

  /** Throw RangeError if the worker follows another database of another server. */
  expect(database: string | null): void {
    if (database === null) return;
    const [ours, theirs] = [this.database.split(":"), database.split(":")];
    const named = ours[2] !== undefined && theirs[2] !== undefined;
    if (ours[0] !== theirs[0] || (named && ours[2] !== theirs[2])) {
      throw new RangeError(
        `the token is from database ${this.database}, but the worker follows ${database}; get the token from the ` +
          "database that the worker follows",
      );
    }
  }

  /**
   * Return true if a processed watermark includes this transaction, and not another one with its number. A
   * promotion or a restore begins another history, which the token names. What lies before the flushed position
   * cannot be lost by a crash.
   */
  appliedBy(watermark: Watermark | null): boolean {
    return (
      watermark !== null &&
      watermark.database === this.database &&
      lsn(watermark.flushed) > this.lsn &&
      watermark.seen.includes(this.xid)
    );
  }
}

interface Wait {
  readonly token: Token;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class TokenWaits {
  private readonly waits = new Set<Wait>();

  constructor(private readonly watermark: () => Watermark | null) {}

  /** Resolve once a processed watermark includes the transaction; rejects with `WaitTimeout`. */
  async wait(token: Token, seconds: number): Promise<void> {
    if (token.appliedBy(this.watermark())) return;
    let wait: Wait | undefined;
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        wait = { token, resolve, reject };
        this.waits.add(wait);
        timer = setTimeout(() => {
          reject(
            new WaitTimeout(
              `the transaction was not applied within ${seconds} s; check that a worker leads (\`unstale stats\`)`,
            ),
          );
        }, seconds * 1000);
      });
    } finally {
      clearTimeout(timer);
      if (wait !== undefined) this.waits.delete(wait);
    }
  }

  /** Wake the callers whose transaction has now been applied. */
  settle(): void {
    for (const wait of this.waits) if (wait.token.appliedBy(this.watermark())) wait.resolve();
  }

  close(): void {
    for (const wait of this.waits) wait.reject(new CacheClosed());
  }
}
