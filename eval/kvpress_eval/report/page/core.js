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

// A press without its arguments has a kind (kinds.py), and so a colour and a shape, the same in every chart and table.
const kindIndex = (family) => data.families[family] ?? data.kinds.length - 1;
const nameOf = (family) => data.kinds[kindIndex(family)].name;
const isControl = (family) => data.kinds[kindIndex(family)].control;
const swatch = (family) => svg("svg", { class: `swatch k${kindIndex(family)}${family === "full" ? " hollow" : ""}`, viewBox: "-1.5 -1.5 3 3", "aria-hidden": "true" },
  svg("path", { d: data.kinds[kindIndex(family)].shape }));
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
// Charts show what the words of the filter leave out too, in the background.
const chartCells = () => cells.filter((c) => inFacet(c) && c.task === state.task);
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
// Tasks of one question have no later turns.
const laterTasks = (c) => (c.later_tasks && c.later_tasks < c.tasks ? ` (${c.later_tasks} of ${c.tasks} tasks)` : "");
const cellTip = (c) => [
  c.press, c.solved && `solved: ${c.solved}`, firing(c),
  `score ${points(c.score[0])} ${range(c.score, points)}`,
  c.diff && `to the full cache ${difference(c)} ${differenceRange(c)}${has(c.p_holm) ? `, p ${chance(c.p_holm)}` : ""}`,
  c.verdict && `${c.verdict} at a margin of 2 points${has(c.retention) ? `; retains ${percent(c.retention)}` : ""}${c.flips ? `; flips ${flips(c)} of ${whole(c.flips[2])}` : ""}`,
  has(c.bytes_ratio) ? `${percent(c.bytes_ratio)} of the dense bytes (${mebi(c.bytes)} MiB)` : "bytes not measured",
  `first turn ${points(c.first)}, later ${points(c.later)}${laterTasks(c)}${has(c.tpot_s) ? `; ${millis(c.tpot_s)}${c.disturbed ? " ‡" : ""} ms per token${c.disturbed ? " (disturbed)" : ""}` : ""}`,
  c.interaction && `later turns against the first, beyond the full cache: ${signedPoints(c.interaction[0])} ${range(c.interaction, signedPoints)}`,
  `${whole(c.sessions)} sessions, ${whole(c.asked)} turns${c.tasks < c.of ? `; only ${c.tasks} of ${c.of} tasks` : ""}`,
];
