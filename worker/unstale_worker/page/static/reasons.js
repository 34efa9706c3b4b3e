// Says in words why something was invalidated.

import { clock, el, key, shown } from "./dom.js";

const KINDS = {
  captures: () => "a table's captures are missing, so the worker invalidates its keys",
  rules: () => "the rules had changed a moment before",
  replay: (process) => `unstale replay by ${process}`,
  delete: (process) => `cache.delete, or a set that stored nothing, by ${process}`,
  pattern: (process) => `cache.invalidate_pattern by ${process}`,
  set: (process) => `cache.set by ${process}`,
  unknown: () => "for a reason that this version cannot read",
};

const byKind = (kind, process) => shown((KINDS[kind] ?? KINDS.unknown)(process));

// The reason of a log entry, which may stand for many changes.
export function entryReason(entry) {
  if (entry.kind !== "changes") return [byKind(entry.kind, entry.process)];
  const what = entry.changes.map(({ table, operation, count }) =>
    `${operation} of ${shown(table)}${count > 1 ? ` × ${count}` : ""}`);
  const where = entry.transactions > 1 ? `${entry.transactions} transactions` : `transaction ${entry.xid}`;
  return [what.join(", "), el("span", { class: "note" }, where), because(entry.because)];
}

export const because = (annotation) =>
  annotation ? el("span", { class: "note" }, "because ", key(JSON.stringify(annotation))) : null;

// The reason why one key was removed, as `unstale why` prints it.
export function removalReason(removal) {
  const pattern = removal.pattern === null ? "" : `, by the pattern ${shown(removal.pattern)}`;
  if (removal.kind !== "changes" || removal.table === null) return byKind(removal.kind, removal.process) + pattern;
  const transaction = removal.xid === null ? "" : ` in transaction ${removal.xid}`;
  if (removal.operation === "change" && removal.pattern !== null)
    return `${shown(removal.table)} was watched, watched again, unwatched or altered (DDL)${transaction}${pattern}`;
  return `${removal.operation} of ${shown(removal.table)}${transaction}${pattern}`;
}

export function keys(names, all, patterns, allPatterns) {
  const parts = [...names.map((name) => key(name)), ...patterns.map((name) => key(name))];
  const left = all + allPatterns - names.length - patterns.length;
  if (left > 0) parts.push(el("span", { class: "dim" }, `and ${left.toLocaleString("en")} more`));
  return el("div", { class: "keys" }, ...parts);
}

export const at = (milliseconds) => clock(milliseconds, { date: true });
