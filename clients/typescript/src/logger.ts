/** Log messages: of a change, or once for each problem. */

export interface LogSink {
  info(message: string): void;
  warn(message: string): void;
}

/** Problems that are remembered as said. */
const REMEMBERED = 1_000;

export class Logger {
  private readonly said = new Set<string>();

  constructor(private readonly sink: LogSink) {}

  info(message: string): void {
    this.sink.info(`unstale: ${message}`);
  }

  warn(message: string): void {
    this.sink.warn(`unstale: ${message}`);
  }

  /** Warn, unless a sentence about `what` was logged before. */
  once(what: string, message: string): void {
    if (this.said.has(what) || this.said.size >= REMEMBERED) return;
    this.said.add(what);
    this.warn(message);
  }
}
