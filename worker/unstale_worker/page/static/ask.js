// The two questions: what removed a key, and what a changed row removes.

import { byId, el, fileName, key, replace, seconds, shown } from "./dom.js";
import { at, because, removalReason } from "./reasons.js";
import { ask } from "./server.js";

const form = byId("ask");

export function begin() {
  form.addEventListener("change", () => {
    const why = form.elements.question.value === "why";
    byId("ask-why").hidden = !why;
    byId("ask-explain").hidden = why;
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { question, key: name, table, row, old } = form.elements;
    if (question.value === "why") answer(() => why(name.value));
    else answer(() => explain(table.value, row.value, old.value));
  });
}

export function askWhy(name) {
  form.elements.question.value = "why";
  form.dispatchEvent(new Event("change"));
  form.elements.key.value = name;
  answer(() => why(name));
  byId("ask").scrollIntoView({ block: "nearest" });
}

async function answer(question) {
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    replace("answer", ...(await question()).filter((part) => part !== null));
  } catch (error) {
    replace("answer", el("p", { class: "error" }, shown(error.message)));
  } finally {
    button.disabled = false;
  }
}

async function why(name) {
  if (!name) throw new Error("write a key first");
  const found = await ask(`/api/why?key=${encodeURIComponent(name)}`);
  const left = found.expires_in_ms === null ? "" : `, ${seconds(found.expires_in_ms / 1000)} to live`;
  const owners = found.owners.map(({ template, line }) =>
    el("p", { class: "dim" }, "made by ", key(template), ` at ${fileName(found.file)}:${line}`));
  if (!found.owners.length) {
    const hint = found.nearest === null ? "" : `; did you mean ${shown(found.nearest)}?`;
    owners.push(el("p", { class: "error" }, `no rule of ${fileName(found.file)} owns it, so no change removes it${hint}`));
  }
  return [
    el("p", {}, key(found.key), `: ${found.content} in Redis${left}`),
    ...owners,
    found.same_rules ? null : el("p", { class: "dim" }, "the leader has other rules than this worker, so names and lines may differ"),
    ...found.removals.map((removal) => oneRemoval(found, removal)),
    el("p", { class: "dim" }, reach(found)),
    ...["recovered", "renewed"].filter((name) => found[name]).map((name) => {
      const what = name === "recovered" ? "every key of the rules was dropped" : "every agent dropped its near cache";
      return el("p", { class: "dim" }, `${at(found[name].at_ms)}  ${what}: ${shown(found[name].why)}`);
    }),
  ];
}

function oneRemoval(found, removal) {
  const rule = removal.lines.map((line) => `${fileName(found.file)}:${line}`).join(", ");
  const timed = removal.read_ms !== null && removal.applied_ms !== null;
  const took = timed ? `, applied ${removal.applied_ms - removal.read_ms} ms after it was read` : "";
  const committed = removal.committed_after_ms === null ? "" : `committed after ${at(removal.committed_after_ms)}${took}`;
  return el("div", { class: "removal" },
    el("strong", {}, removalReason(removal)),
    el("span", { class: "note" }, [at(removal.applied_ms), rule && `rule ${rule}`, `log entry ${removal.id}`].filter(Boolean).join(" · ")),
    because(removal.annotation),
    committed ? el("span", { class: "note" }, committed) : null);
}

function reach(found) {
  if (found.reaches_back_ms === null) return "The log is empty: nothing removed it since the log began.";
  const since = `${at(found.reaches_back_ms)}, where the log begins (${found.entries} entries)`;
  if (found.more) return `There are older ones; the log goes back to ${since}.`;
  if (found.removals.length) return `Nothing else removed it since ${since}.`;
  return `Nothing removed it since ${since}. It may have expired, or been evicted or deleted by hand.`;
}

async function explain(table, row, old) {
  const body = { table, row: json(row, "the row"), ...(old.trim() ? { old: json(old, "the row before") } : {}) };
  const found = await ask("/api/explain", body);
  if (found.ignored !== null) return [el("p", {}, `${shown(found.table)}: nothing is removed; ${shown(found.ignored)}`)];
  const said = found.misspelt.map(([wrong, right]) =>
    el("p", { class: "note" }, `no rule needs the column ${shown(wrong)}; did you mean ${shown(right)}?`));
  return [...said, ...found.rules.map((rule) => el("div", { class: "removal" },
    el("strong", {}, `${fileName(found.file)}:${rule.line}${rule.purge ? " (purge)" : ""}`),
    rule.query === null ? null : el("span", { class: "note" }, "query ", key(rule.query.replace(/\s+/g, " "))),
    rule.failure === null ? null : el("span", { class: "error" }, shown(rule.failure)),
    ...rule.keys.map((effect) => el("p", {}, key(effect.key), el("span", { class: "note" }, life(effect)))),
    ...rule.patterns.map((pattern) => el("p", {}, "every key of ", key(pattern))),
    ...rule.unknown.map(([template, lacking]) =>
      el("p", { class: "dim" }, key(template), ` needs ${lacking.map(shown).join(", ")}, which the row lacks`)),
    rule.keys.length || rule.patterns.length || rule.unknown.length ? null : el("p", { class: "dim" }, rule.query === null ? "no key" : "no key: the query returns no row now")))];
}

function life(effect) {
  const ttl = effect.ttl === null ? "default TTL" : `TTL ${effect.ttl} s by [ttl] ${shown(effect.ttl_pattern)}`;
  if (effect.refresh_line === null) return ttl + older(effect);
  const stale = effect.serve_stale ? `, stale for at most ${effect.serve_stale} s` : "";
  const budget = effect.budgets.length ? `, budget ${effect.budgets.join(" and ")}, then ${effect.over_budget}` : "";
  return `${ttl}; refreshed by line ${effect.refresh_line}${stale}${budget}${older(effect)}`;
}

function older(effect) {
  return effect.stale_if_error ? `; the last value for ${effect.stale_if_error} s if its loader fails` : "";
}

function json(text, what) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${what} is not JSON; write it as {"id": 42}`);
  }
}
