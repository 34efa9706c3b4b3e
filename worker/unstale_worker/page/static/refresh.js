// The refresh queue, and the keys whose refresh failed for good.

import { byId, count, el, key, list, replace, seconds, shown } from "./dom.js";
import { at } from "./reasons.js";
import { ask } from "./server.js";

let mayAct = false;
let known = -1;

export function begin(session) {
  mayAct = session.may_act;
}

export function show(figures) {
  const { totals } = figures;
  replace("refresh",
    list([
      ["waiting or running", count(figures.waiting)],
      ["refreshed", count(totals.filled)],
      ["calls saved by unchanged inputs", count(totals.unchanged)],
      ...figures.refreshes.filter((each) => each.calls).map((each) => [`calls for ${each.pattern}`, count(each.calls)]),
      ...figures.budgets.map((each) => [`budget of ${each.refresh}`, each.calls === null ? `${each.budget}, used by ${count(each.values)}` : `${count(each.calls)} of ${each.budget} used`]),
      ["overtaken by a newer change", count(totals.overtaken)],
      ["failed attempts", count(totals.failed)],
      ["refresh workers", figures.workers ? count(figures.workers) : "none; the leader does it"],
    ]),
    ...figures.next.slice(0, 3).map((next) => el("p", { class: "note" }, key(next.key), next.due_in > 0 ? ` due in ${seconds(next.due_in)}` : " due")));
  if (figures.dead !== known) {
    known = figures.dead;
    load();
  }
}

async function load() {
  try {
    letters(await ask("/api/dead-letters"));
  } catch (error) {
    replace("dead", el("p", { class: "error" }, shown(error.message)));
  }
}

function letters(found) {
  byId("dead-count").textContent = found.count ? count(found.count) : "";
  if (!found.count) {
    replace("dead", el("p", { class: "dim" }, "None: no refresh has failed for good."));
    return;
  }
  const rows = found.letters.map((letter) => el("div", { class: "removal" },
    key(letter.key),
    el("span", { class: "note" }, `${at(letter.at * 1000)}, after ${letter.attempts} attempts: ${shown(letter.error)}`),
    ...(mayAct ? [action("retry", letter.key), " ", action("drop", letter.key)] : [])));
  const note = mayAct ? "" : "To retry or drop one here, set UNSTALE_HTTP_TOKEN; unstale dead-letters does the same.";
  replace("dead", ...rows, el("p", { class: "dim" }, note));
}

function action(name, letter) {
  const button = el("button", { type: "button", class: "small quiet", onclick: async () => {
    button.disabled = true;
    try {
      await ask("/api/dead-letters", { action: name, key: letter });
      await load();
    } catch (error) {
      button.replaceWith(el("span", { class: "error" }, shown(error.message)));
    }
  } }, name);
  return button;
}
