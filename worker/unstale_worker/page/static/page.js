// Puts each second's figures on the page. Every list is bounded, and what was shown before is replaced.

import * as agents from "./agents.js";
import * as ask from "./ask.js";
import * as audit from "./audit.js";
import * as charts from "./charts.js";
import { byId, bytes, clock, count, el, key, list, rate, replace, seconds, shown } from "./dom.js";
import { entryReason, keys } from "./reasons.js";
import * as refresh from "./refresh.js";
import * as server from "./server.js";

const ROLES = { leading: "ok", standby: "ok", refreshing: "ok", starting: "warning", stopping: "warning" };
let heard = 0;
let newest = 0;
let reports = null;

function state(worker) {
  const pill = byId("state");
  pill.textContent = worker.role;
  pill.className = `pill ${worker.ready ? ROLES[worker.role] : "bad"}`;
  byId("why").textContent = worker.ready && worker.why === worker.role ? "" : shown(worker.why);
  document.title = `${worker.ready ? "" : "⚠ "}unstale: ${worker.role}`;
}

function box(name, up, big, unit, pairs) {
  const dot = el("span", { class: `dot ${up === null ? "" : up ? "up" : "down"}`, title: up ? "answers" : "does not answer" });
  return el("div", { class: "card" }, el("h2", {}, dot, name), el("p", { class: "big" }, big, " ", el("small", {}, unit)), list(pairs));
}

function flow({ worker, redis }) {
  const leads = worker.role === "leading";
  const stale = reports?.agents.length ? Math.max(...reports.agents.map((agent) => agent.staleness ?? Infinity)) : null;
  replace("flow",
    box("Postgres", worker.role === "refreshing" ? null : worker.database, rate(charts.newest("entries")), "changes/s", [
      ["source", shown(worker.source || "–")],
      ["commits wake it", worker.listening ? "yes" : "no, polls"],
      ["applied in all", count(worker.counters.entries)],
    ]),
    box("Worker", worker.ready, leads ? seconds(worker.lag) : worker.role, leads ? "lag" : "", [
      ["half applied in", seconds(charts.newest("p50", 10))],
      ["batches", `${rate(charts.newest("batches"))}/s`],
      ["errors", count(worker.counters.errors)],
    ]),
    box("Redis", worker.redis && redis !== null, rate(charts.newest("keys")), "invalidated/s", [
      ["log", redis ? bytes(redis.log_bytes) : "–"],
      ["keys", redis ? count(redis.keys) : "–"],
      ["memory", redis ? redis.memory : "–"],
    ]),
    box("Agents", null, redis ? count(redis.agents) : "–", "follow", [
      ["watermark", redis && redis.watermark_age !== null ? `${seconds(redis.watermark_age)} ago` : "–"],
      ["stalest", stale === null ? "–" : Number.isFinite(stale) ? seconds(stale) : "detached"],
      ["rules", redis ? (redis.same_rules ? "as here" : "other than here") : "–"],
    ]));
}

function entries(found) {
  byId("no-newest").hidden = found.length > 0;
  if (found.length && found[0].id === newest) return;
  newest = found.length ? found[0].id : 0;
  const rows = found.map((entry) => el("tr", {},
    el("td", { class: "number dim" }, clock(entry.at)),
    el("td", {}, ...entryReason(entry).filter((part) => part !== null)),
    el("td", {}, keys(entry.keys, entry.key_count, entry.patterns, entry.pattern_count)),
    el("td", { class: "number" }, entry.took === null ? "" : `${entry.took} ms`)));
  byId("newest").tBodies[0].replaceChildren(...rows);
}

function people({ redis }) {
  byId("agents-count").textContent = redis ? `${count(redis.agents)} follow` : "";
}

function problem(text) {
  byId("problem").hidden = !text;
  byId("problem").textContent = shown(text);
}

function live() {
  const ago = Math.round((Date.now() - heard) / 1000);
  byId("live").textContent = heard === 0 ? "no data yet" : ago < 3 ? "live" : `last heard of ${ago} s ago`;
}

async function examine() {
  const button = byId("examine");
  button.disabled = true;
  replace("findings", el("p", { class: "dim" }, "checking …"));
  try {
    const { findings } = await server.ask("/api/doctor", {});
    const order = ["error", "warning", "info", "ok"];
    const classes = { error: "bad", warning: "warning", ok: "ok", info: "" };
    findings.sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity));
    replace("findings", ...findings.map((each) => el("div", { class: "finding" },
      el("span", { class: `pill ${classes[each.severity]}` }, each.severity),
      el("div", {}, el("strong", {}, shown(each.subject)), ` ${shown(each.finding)}`,
        each.remedy ? el("span", { class: "note" }, shown(each.remedy)) : null))));
  } catch (error) {
    replace("findings", el("p", { class: "error" }, shown(error.message)));
  } finally {
    button.disabled = false;
  }
}

for (const place of ["newest", "audit"]) {
  byId(place).addEventListener("click", (event) => {
    if (event.target.dataset.key) ask.askWhy(event.target.dataset.key);
  });
}
byId("examine").addEventListener("click", examine);
ask.begin();
const session = await server.begin();
refresh.begin(session);
agents.begin(session.agents, (found) => { reports = found; });
byId("sign-out").hidden = !session.may_act;
byId("sign-out").addEventListener("click", async () => {
  await server.ask("/sign-out", {});
  location.reload();
});
server.follow({
  history: charts.history,
  lost: () => problem("The worker does not answer; trying again."),
  now: (event) => {
    heard = Date.now();
    charts.add(event.sample);
    problem(event.problem);
    state(event.worker);
    flow(event);
    people(event);
    if (event.redis) {
      entries(event.redis.newest);
      refresh.show(event.redis.refresh);
      audit.show(event.redis.audit);
    }
    live();
  },
});
setInterval(live, 1000);
