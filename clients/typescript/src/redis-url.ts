/** Parses `redisUrl`: the address of a server, or of Sentinels that know the primary. */

import type { RedisOptions } from "ioredis";

import { ConfigurationError } from "./errors.js";

const FORMS =
  "expected redis://user:password@host:port/db, rediss://… with TLS, or " +
  "redis+sentinel://user:password@host:port,host:port/service/db (rediss+sentinel://… with TLS)";
const SENTINEL_PORT = 26379;

export interface RedisUrl {
  readonly options: RedisOptions;
  /** The server's address, for logs. */
  readonly place: string;
  /** Number of the Redis database. */
  readonly database: number;
}

/** Parse a URL; throws `ConfigurationError`, which never shows a part of it. */
export function parseRedisUrl(url: string, tls?: RedisOptions["tls"]): RedisUrl {
  const found = /^(rediss?)(\+sentinel)?:\/\/(?:([^@/?#]*)@)?([^@/?#]*)(\/[^?#]*)?(\?[^#]*)?$/.exec(url);
  if (found === null) throw wrong("it cannot be parsed");
  const [, scheme, sentinel, login = "", hosts = "", path = "", query = ""] = found;
  if (/[?&]cluster=true/.test(query)) throw wrong("a cluster cannot be followed by this version");
  if (query !== "") throw wrong("it has options behind '?'; give certificates as the option tls");
  const [username, password] = credentials(login);
  const segments = path.split("/").filter((segment) => segment !== "");
  const service = sentinel === undefined ? undefined : segments.shift();
  const database = Number(segments[0] ?? 0);
  if (segments.length > 1 || !/^[0-9]+$/.test(segments[0] ?? "0")) {
    throw wrong("what follows the last slash is not the number of a database");
  }
  const encrypted = scheme === "rediss" ? { tls: tls ?? {} } : {};
  const common = { ...encrypted, ...(username && { username }), ...(password && { password }), db: database };
  if (sentinel === undefined) {
    if (hosts.includes(",")) throw wrong("it names several hosts; a cluster cannot be followed by this version");
    const { host, port } = address(hosts || "localhost", 6379);
    return { options: { ...common, host, port }, place: `${host}:${port}`, database };
  }
  if (service === undefined) throw wrong("it does not name the Sentinels' service");
  const sentinels = hosts.split(",").map((each) => address(each, SENTINEL_PORT));
  const own = scheme === "rediss" ? { enableTLSForSentinelMode: true, sentinelTLS: tls ?? {} } : {};
  const shown = sentinels.map(({ host, port }) => `${host}:${port}`).join(", ");
  const options = { ...common, ...own, sentinels, name: service, sentinelRetryStrategy: () => null };
  return { options, place: `${service} (sentinels ${shown})`, database };
}

function credentials(login: string): [string, string] {
  const [username = "", ...rest] = login.split(":");
  try {
    return [decodeURIComponent(username), decodeURIComponent(rest.join(":"))];
  } catch {
    throw wrong("user or password are not percent-encoded");
  }
}

function address(text: string, port: number): { host: string; port: number } {
  const found = /^(\[[0-9A-Fa-f:.]+\]|[^:[\]]+)(?::([0-9]{1,5}))?$/.exec(text);
  if (found === null || Number(found[2] ?? port) > 65_535) throw wrong("a host or its port cannot be read");
  return { host: (found[1] as string).replace(/[[\]]/g, ""), port: Number(found[2] ?? port) };
}

function wrong(what: string): ConfigurationError {
  return new ConfigurationError(`redisUrl: ${what}; ${FORMS}`);
}
