// The newest result of `unstale audit --publish`: how often cached values agree with the database.

import { at } from "./reasons.js";
import { byId, count, el, key, list, replace, seconds, shown, table } from "./dom.js";

export function show(audit) {
  byId("audit-by").textContent = audit === null ? "" : `${shown(audit.by)}, ${ran(audit)}`;
  if (audit === null) {
    replace("audit", el("p", { class: "dim" }, "No audit publishes its result: run ", el("code", {}, "unstale audit --publish"), "."));
    return;
  }
  const sound = audit.violation_count === 0 && audit.broken_promises === 0;
  replace("audit",
    el("p", {}, el("span", { class: `pill ${sound ? "ok" : "bad"}` }, sound ? "no violation" : violations(audit)),
      ` ${count(audit.compared)} values compared, `, el("strong", {}, `${nines(audit)} nines`)),
    list([
      [`promised within ${seconds(audit.bound_s)}`, `${share(audit.promised_within)} of the time, worst ${seconds(audit.worst_promised_s)}`],
      [`seen within ${seconds(audit.bound_s)}`, `${share(audit.seen_within)} of the time, worst ${seconds(audit.worst_seen_s)}`],
      ["promises broken", count(audit.broken_promises)],
    ]),
    table(["table", "when", "compared", "wrong", "nines"], audit.lines.map((line) => el("tr", {},
      el("td", {}, el("span", { class: "key" }, shown(line.table))),
      el("td", { class: "number" }, shown(line.delay)),
      el("td", { class: "number" }, count(line.compared)),
      el("td", { class: "number" }, count(line.outcomes.wrong)),
      el("td", { class: "number" }, nines({ ...line, equal: line.outcomes.equal }))))),
    ...audit.violations.map((each) => el("p", { class: "removal" }, key(each.key),
      ` differed${each.fields.length ? ` in ${shown(each.fields.join(", "))}` : ""}`,
      el("span", { class: "note" }, `found ${each.delay === "at random" ? "at random in" : `${shown(each.delay)} after a change of`} ${shown(each.table)}, ${at(each.found_ms)}, `
        + (each.ended === null ? "still there" : `lasted at least ${seconds(each.lasted_s)}`)))));
}

function ran(audit) {
  const long = audit.seconds < 120 ? `${Math.round(audit.seconds)} s` : `${Math.round(audit.seconds / 60)} min`;
  return audit.ended ? `ended after ${long}` : `for ${long}${audit.ago > 30 ? `, silent for ${Math.round(audit.ago)} s` : ""}`;
}

// Without any difference, the number is what so many comparisons can show.
function nines(result) {
  if (result.nines === null) return "–";
  return `${result.compared > result.equal ? "" : "≥ "}${result.nines.toFixed(2)}`;
}

function violations({ violation_count: found, broken_promises: broken }) {
  if (found === 0) return broken === 1 ? "1 broken promise" : `${count(broken)} broken promises`;
  return found === 1 ? "1 violation" : `${count(found)} violations`;
}

const share = (part) => (part === null ? "–" : `${(part * 100).toFixed(3)} %`);
