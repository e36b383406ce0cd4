// Data, number formats and filters.

const unpack = ({ n, columns }) =>
  Array.from({ length: n }, (_, r) =>
    Object.fromEntries(Object.entries(columns).map(([name, c]) => [name, c.v ? c.v[r] : c.u[c.i[r]]])));

const data = JSON.parse(document.getElementById("data").textContent);
const cells = unpack(data.cells).map((c) => ({ ...c, ...data.tables[c.table], facet: c.table }));
const rows = unpack(data.rows).map((r, order) => ({ ...r, ...data.tables[r.table], facet: r.table, order }));
const FACETS = ["model", "mode", "length", "history", "rendering", "dtype", "source", "prompts", "scorer", "origin", "variant"];
const state = { ...Object.fromEntries(FACETS.map((f) => [f, ""])), task: "", device: "", text: "", budget: 0.25, memory: 1 };

const NONE = "–";
// The rule of numbers.py: halves away from zero, from the digits that both are given.
const fixed = (v, digits = 1, factor = 1, sign = false) => {
  if (!has(v)) return NONE;
  const units = Math.floor(Number((Math.abs(v) * factor * 10 ** digits).toFixed(6)) + 0.5);
  return (units === 0 ? "" : v < 0 ? "−" : sign ? "+" : "") + (units / 10 ** digits).toFixed(digits);
};
const points = (v) => fixed(v, 1, 100);
const signedPoints = (v) => fixed(v, 1, 100, true);
const whole = (v) => (has(v) ? Math.round(v).toLocaleString("en-US") : NONE);
const percent = (v) => (has(v) ? `${fixed(v, v >= 0.9995 ? 0 : v >= 0.0995 ? 1 : 2, 100)} %` : NONE);
const chance = (p) => (!has(p) ? NONE : p < 0.001 ? "<0.001" : fixed(p, p >= 0.1 ? 2 : 3));
const mebi = (v) => (has(v) ? (v / 2 ** 20).toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 }) : NONE);
const seconds = (v) => fixed(v, 3);
const millis = (v) => fixed(v, 1, 1000);
// A time that other programs disturbed never stands bare.
const time = (text, disturbed) => (disturbed && text !== NONE ? el("span", { title: "other programs disturbed this time: it compares with no other" }, `${text} ‡`) : text);
const range = (i, show) => (i && has(i[1]) ? `[${show(i[1])}, ${show(i[2])}]` : "");
const star = (c) => (has(c.p_holm) && c.p_holm < 0.05 ? "*" : "");
const difference = (c) => (c.diff ? signedPoints(c.diff[0]) + star(c) : NONE);
const differenceRange = (c) => {
  if (!c.diff) return "";
  return c.diff[0] === 0 && c.diff[1] === 0 && c.diff[2] === 0 ? "no session differs" : range(c.diff, signedPoints);
};

// What is measured beside the score, in its own digits: measures[name] is [mean, difference to the full cache].
const MEASURES = Object.entries(data.measures).map(([name, m]) => ({
  ...m, name, mean: (c) => c.measures[name]?.[0]?.[0] ?? null, diff: (c) => c.measures[name]?.[1] ?? null,
  show: (v) => fixed(v, m.digits), shift: (v) => fixed(v, m.digits, 1, true),
}));
const shiftText = (m, c) => (m.diff(c) ? `${m.shift(m.diff(c)[0])} ${range(m.diff(c), m.shift)}`.trim() : "");

const flips = (c) => (!c.flips ? NONE : c.flips[0] + c.flips[1] === 0 ? "none" : `${c.flips[0] ? "−" : ""}${whole(c.flips[0])} ${c.flips[1] ? "+" : ""}${whole(c.flips[1])}`);

// The look of a family is the same in every chart and table: 10 colours and 7 shapes, so 70 pairs before one repeats.
const SHAPES = [
  (r) => `M${-r},0a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0Z`,
  (r) => `M${-r * 0.9},${-r * 0.9}h${1.8 * r}v${1.8 * r}h${-1.8 * r}Z`,
  (r) => `M0,${-1.2 * r}L${1.15 * r},${0.85 * r}H${-1.15 * r}Z`,
  (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0Z`,
  (r) => `M0,${1.2 * r}L${1.15 * r},${-0.85 * r}H${-1.15 * r}Z`,
  (r) => `M${-0.45 * r},${-1.2 * r}h${0.9 * r}v${0.75 * r}h${0.75 * r}v${0.9 * r}h${-0.75 * r}v${0.75 * r}h${-0.9 * r}v${-0.75 * r}h${-0.75 * r}v${-0.9 * r}h${0.75 * r}Z`,
  (r) => `M${-1.15 * r},0L${-0.58 * r},${-r}H${0.58 * r}L${1.15 * r},0L${0.58 * r},${r}H${-0.58 * r}Z`,
];
const look = (family) => {
  const i = data.families.indexOf(family);
  return i < 0 ? { colour: "full", shape: 0 } : { colour: `f${i % 10}`, shape: i % SHAPES.length };
};
const mark = (family, x, y, r = 4.6, open = false) =>
  svg("path", { d: SHAPES[look(family).shape](r), transform: `translate(${x},${y})`, class: open || family === "full" ? "open" : "mark" });
const swatch = (family) =>
  svg("svg", { class: `swatch ${look(family).colour}`, viewBox: "-7 -7 14 14", "aria-hidden": "true" }, mark(family, 0, 0, 5));
const short = (text, most = 30) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

// What the filters let through. A method is shown when one of its runs matches the text; the full cache always is.
const inFacet = (x) => FACETS.every((f) => state[f] === "" || String(x[f]) === state[f])
  && (state.device === "" || (x.devices ? x.devices.includes(state.device) : x.device === undefined || x.device === state.device));
const haystack = (r) => [r.press, r.method, r.press_spec, r.task, r.schedule, r.error, r.run_id, r.device, r.dtype, r.commit, r.status, r.origin].join(" ").toLowerCase();
const words = () => state.text.toLowerCase().split(/\s+/).filter(Boolean);
const shownRows = () => {
  const wanted = words();
  return rows.filter((r) => inFacet(r) && (state.task === "" || r.task === state.task) && wanted.every((w) => haystack(r).includes(w)));
};
const shownCells = (task = state.task) => {
  const presses = words().length ? new Set(shownRows().map((r) => r.method)) : null;
  return cells.filter((c) => inFacet(c) && c.task === task && (!presses || c.press === "full" || presses.has(c.press)));
};
const ambiguous = (group) => {
  const counts = {};
  for (const c of group) counts[`${c.facet} ${c.press}`] = (counts[`${c.facet} ${c.press}`] || 0) + 1;
  return (c) => counts[`${c.facet} ${c.press}`] > 1;
};
const visible = (v) => (v === true ? "question visible" : v === false ? "question hidden" : "");
const firing = (c) => [c.schedule, visible(c.question_visible)].filter(Boolean).join(", ");
const dtypesOf = (model) => uniq(data.tables.filter((t) => t.model === model).map((t) => t.dtype));
const facetTitle = (facet) => {
  const t = data.tables[facet];
  const vary = (f) => uniq(data.tables.map((x) => x[f])).length > 1;
  return [vary("model") && state.model === "" && t.model, t.mode, t.length ? `${whole(t.length)} tokens` : "unknown length",
    vary("history") && `${t.history} history`, vary("rendering") && t.rendering, dtypesOf(t.model).length > 1 && t.dtype, ...t.special].filter(Boolean).join(", ");
};
