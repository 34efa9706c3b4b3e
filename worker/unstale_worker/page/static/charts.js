// Draws what is kept of the last 15 minutes with uPlot.

import { byId } from "./dom.js";

const KEPT = 900;
const CHARTS = {
  rates: [
    { label: "changes", field: "entries", colour: "--one", scale: 1 },
    { label: "keys invalidated", field: "keys", colour: "--two", scale: 1 },
  ],
  latency: [
    { label: "half of all", field: "p50", colour: "--one", scale: 1000 },
    { label: "99 %", field: "p99", colour: "--two", scale: 1000 },
  ],
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const plots = new Map();
let fields = [];
let samples = [];
let drawing = false;

export function history(event) {
  fields = event.fields;
  samples = event.samples.slice(-KEPT);
  draw();
}

export function add(sample) {
  if (!sample) return;
  samples.push(sample);
  if (samples.length > KEPT) samples.splice(0, samples.length - KEPT);
  draw();
}

// The newest rates; a mean of some seconds, as single ones jump.
export function newest(field, over = 3) {
  const place = fields.indexOf(field);
  const last = samples.slice(-over).map((sample) => sample[place]).filter((value) => value !== null);
  return last.length ? last.reduce((sum, value) => sum + value, 0) / last.length : null;
}

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    for (const name of Object.keys(CHARTS)) {
      if (!plots.has(name)) plots.set(name, make(name));
      plots.get(name).setData(data(name));
    }
  });
}

function data(name) {
  const columns = CHARTS[name].map(({ field, scale }) => {
    const place = fields.indexOf(field);
    return samples.map((sample) => (sample[place] === null ? null : sample[place] * scale));
  });
  return [samples.map((sample) => sample[0]), ...columns];
}

function make(name) {
  const style = getComputedStyle(document.documentElement);
  const colour = (variable) => style.getPropertyValue(variable).trim();
  const axis = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const place = byId(name);
  const number = (_, value) => (value === null ? "–" : value.toLocaleString("en", { maximumFractionDigits: 1 }));
  return new uPlot(
    {
      ...size(place),
      series: [
        { label: "at", value: (_, at) => (at === null ? "–" : time(at)) },
        ...CHARTS[name].map((line) => ({
          label: line.label, stroke: colour(line.colour), width: 1.6, spanGaps: true, value: number, points: { show: false },
        })),
      ],
      axes: [{ ...axis, size: 26, space: 80, values: (_, values) => values.map(time) }, { ...axis, size: 48, values: (_, values) => values.map((v) => v.toLocaleString("en")) }],
      scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
      cursor: { drag: { x: false, y: false } },
    },
    data(name),
    place,
  );
}

const time = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

const size = (place) => ({ width: Math.max(200, place.clientWidth), height: 160 });

addEventListener("resize", () => {
  for (const [name, plot] of plots) plot.setSize(size(byId(name)));
});

dark.addEventListener("change", () => {
  for (const plot of plots.values()) plot.destroy();
  plots.clear();
  draw();
});
