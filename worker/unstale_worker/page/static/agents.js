// The agents and the hits by key pattern, from the reports that agents write to Redis every few seconds.

import { byId, count, el, replace, seconds, shown, table } from "./dom.js";
import { ask } from "./server.js";

const EVERY = 5000;
const MOST = 50;

// Asks again and again; calls `told` with each answer, or with null while there is none.
export function begin(exists, told) {
  if (!exists) {
    none();
    return;
  }
  const look = async () => {
    try {
      const found = await ask("/api/agents");
      show(found);
      told(found);
    } catch {
      none();
      told(null);
    }
    setTimeout(look, EVERY);
  };
  look();
}

function none() {
  replace("agents", el("p", { class: "dim" }, "No agent reports."));
  replace("patterns", el("p", { class: "dim" }, "No agent reports."));
}

function show(found) {
  if (!found.agents.length) {
    none();
    return;
  }
  const agents = found.agents.slice(0, MOST).map((agent) => el("tr", {},
    el("td", {}, shown(agent.name ?? `${agent.host}:${agent.pid}`), ...marks(agent)),
    el("td", { class: "number" }, agent.staleness === null ? "–" : seconds(agent.staleness)),
    el("td", { class: "number" }, percent(agent.hits, agent.reads)),
    el("td", { class: "number" }, count(agent.loads))));
  replace("agents", table(["agent", "staleness", "hits", "loads"], agents));
  const byReads = Object.entries(found.patterns).sort(([, a], [, b]) => b.reads - a.reads).slice(0, MOST);
  const unowned = Object.entries(found.unowned).sort(([, a], [, b]) => b.reads - a.reads).slice(0, MOST);
  replace("patterns", table(["pattern", "reads", "hits", "loads"], [
    ...byReads.map(([name, counted]) => pattern(name, counted, null)),
    ...unowned.map(([name, counted]) => pattern(name, counted, counted.meant ? `no rule; did you mean ${shown(counted.meant)}?` : "no rule")),
  ]));
}

function marks(agent) {
  const found = [];
  if (agent.attached === null) found.push(" ", el("span", { class: "pill bad" }, "detached"));
  if (!agent.follows) found.push(" ", el("span", { class: "pill warning" }, "other rules"));
  return found;
}

function pattern(name, counted, note) {
  return el("tr", {},
    el("td", {}, el("span", { class: "key" }, shown(name)), note === null ? null : el("span", { class: "note" }, note)),
    el("td", { class: "number" }, count(counted.reads)),
    el("td", { class: "number" }, percent(counted.hits, counted.reads)),
    el("td", { class: "number" }, count(counted.loads)));
}

const percent = (part, whole) => (whole ? `${(part / whole * 100).toFixed(1)} %` : "–");
