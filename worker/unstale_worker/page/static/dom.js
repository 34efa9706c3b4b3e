// Builds elements and formats numbers. Text from outside becomes a text node, never markup.

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

// Invisible characters of a key are shown as their code, so that none reorders or hides the rest.
export const shown = (text) =>
  String(text).replace(/[\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}]/gu, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);

export const key = (text) => el("span", { class: "key", "data-key": text }, shown(text));

export const replace = (id, ...children) => byId(id).replaceChildren(...children);

export const count = (number) => (number ?? 0).toLocaleString("en");

export function rate(number) {
  if (number === null || number === undefined) return "–";
  return number >= 100 ? Math.round(number).toLocaleString("en") : String(Math.round(number * 10) / 10);
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${value < 0.01 ? (value * 1000).toFixed(1) : Math.round(value * 1000)} ms`;
  return value < 120 ? `${value.toFixed(1)} s` : `${Math.round(value / 60)} min`;
}

export function clock(milliseconds, { date = false } = {}) {
  if (!milliseconds) return "?";
  const at = new Date(milliseconds);
  const pad = (number, width = 2) => String(number).padStart(width, "0");
  const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} `;
  const time = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}.${pad(at.getMilliseconds(), 3)}`;
  return (date ? day : "") + time;
}

// The name of a file without its folders.
export const fileName = (path) => shown(path.split(/[\\/]/).pop());

export const bytes = (number) =>
  number < 1e6 ? `${Math.round((number ?? 0) / 1e3)} kB` : `${(number / 1e6).toFixed(1)} MB`;

export function list(pairs) {
  return el("dl", {}, ...pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

// The first column holds names, the others numbers.
export function table(names, rows) {
  const head = names.map((name, place) => el("th", place ? { class: "number" } : {}, name));
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)));
}
