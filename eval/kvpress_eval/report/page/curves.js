// Curves over turns and lengths, of the press of each method that is nearest to the chosen bytes; what loading costs.

const about = (v) => `${Number(v.toPrecision(3))}`;
const byDevice = (group) => uniq(group.map((c) => c.device)).sort();
const deviceNote = (device) => (uniq(cells.map((c) => c.device)).length > 1 ? device : null);

// One press per family: the one whose bytes are nearest to the budget chosen, so that lines compare at equal memory.
function atBudget(here) {
  const distance = (c) => (has(c.bytes_ratio) ? Math.abs(Math.log2(c.bytes_ratio / state.budget)) : 0); // imported: all there is
  const chosen = here.filter((c) => c.press === "full");
  for (const family of uniq(here.map((c) => c.family))) {
    if (family === "full") continue;
    const near = here.filter((c) => c.family === family && !c.control && c.tasks === c.of && (has(c.bytes_ratio) || c.origin) && distance(c) < 0.75);
    near.sort((a, b) => distance(a) - distance(b) || a.press.localeCompare(b.press));
    if (near.length) chosen.push(near[0]);
  }
  return chosen;
}

// lines: {cell, points: [x, y]}. The names stand at the ends; those that do not fit are left to the tooltip.
function curves(lines, { width, xName, yName, log, axis, show, ticks, label }) {
  const { any, lit, place } = emphasis();
  const right = Math.min(190, width * 0.42), ends = [];
  const points = lines.flatMap(({ cell, points: path }) => path.map(([x, y], k) => ({ cell, x, y, last: k === path.length - 1 })))
    .map((p, i) => ({
      ...p, i, kind: nameOf(p.cell.family), press: p.cell.press, line: `${p.cell.press} ${firing(p.cell)}`, whole: p.cell.press !== "full",
      place: p.cell.press === "full" ? "lit" : place(p.cell, false),
    }));
  const names = sortedBy(points.filter((p) => p.last && p.place !== "dim"), (p) => (axis.low ? p.y : -p.y)).map((p, order) => ({
    ...p, order: p.place === "lit" ? order - 1000 : order, name: p.cell.press === "full" ? "full cache" : `${short(p.cell.family, width < 420 ? 15 : 24)} ${has(p.cell.bytes_ratio) ? percent(p.cell.bytes_ratio).replace(/\.\d+ /, " ") : ""}`,
  }));
  const xs = uniq(points.map((p) => p.x)).sort((a, b) => a - b), [low, high] = [xs[0], xs[xs.length - 1]];
  const pad = log ? 1.04 : Math.max(0.3, (high - low) / 30);
  return plot(data.charts.lines, label, {
    ...axis, xScale: log ? "log" : "linear", xDomain: log ? [low / pad, high * pad] : [low - pad, high + pad], xTicks: xs, xTitle: xName, xLabel: "format(datum.value, ',')", yTitle: yName,
    points, names,
  }, { width, right, height: Math.round(Math.max(260, Math.min(360, width * 0.55))) }, (p) => [`${ticks(p.x)}: ${show(p.y)}`, ...cellTip(p.cell)]);
}
const scoreText = (v) => `score ${fixed(v)}`;

function drawTurns() {
  const group = chartCells(), facets = facetsOf(group);
  byId("n-turns").textContent = `${state.task || "macro mean over tasks"}; the press of each method nearest to the chosen bytes`;
  if (!facets.length) return nothing("turns");
  const width = panelWidth("turns", facets.length), axis = qualityAxis(group, { ...SCORE, of: (c) => c.turns.map((v) => 100 * v) });
  fill("turns", facets.map((facet) => {
    const lines = atBudget(group.filter((c) => c.facet === facet)).map((cell) => ({ cell, points: cell.turns.map((v, t) => [t + 1, 100 * v]) }));
    const unordered = data.tables[facet].mode === "multi-request";
    return panel(facetTitle(facet), unordered && "each question from a fresh copy: order means nothing",
      curves(lines, { width, axis, xName: unordered ? "question" : "turn", yName: SCORE.title, ticks: String, show: scoreText, label: `Score by turn, ${facetTitle(facet)}` }));
  }));
}

function drawLengths() {
  const group = allLengths(chartCells), settings = settingsOf(group);
  byId("s-lengths").hidden = !settings.length;
  if (!settings.length) return;
  byId("n-lengths").textContent = `${state.task || "macro mean over tasks"}; same presses as above, all lengths`;
  const width = panelWidth("lengths", settings.length), axis = qualityAxis(group, { ...SCORE, of: (c) => [100 * c.score[0]] });
  fill("lengths", settings.map((setting) => {
    const here = group.filter((c) => settingOf(c) === setting), title = settingTitle(here[0]);
    return panel(title, null, curves(byLength(here, (c) => 100 * c.score[0]), { width, axis, log: true, xName: "length (tokens, log scale)", yName: SCORE.title, ticks: whole, show: scoreText, label: `Score by length, ${title}` }));
  }));
}

// What stays the same along a curve over lengths.
const settingOf = (c) => FACETS.filter((f) => f !== "length").map((f) => c[f]).join("\n");
const settingsOf = (group) => uniq(group.map(settingOf)).filter((s) => uniq(group.filter((c) => settingOf(c) === s).map((c) => c.length)).length > 1);
const settingTitle = (c) => {
  const vary = (f) => uniq(data.tables.map((t) => t[f])).length > 1;
  return [state.model === "" && vary("model") && c.model, c.mode, vary("history") && `${c.history} history`, vary("rendering") && c.rendering,
    dtypesOf(c.model).length > 1 && c.dtype, ...c.special].filter(Boolean).join(", ");
};
function allLengths(get) {
  const kept = state.length;
  state.length = "";
  const found = get();
  state.length = kept;
  return found;
}

// A line for each press nearest to the chosen bytes at the longest length, over all lengths.
function byLength(here, value) {
  const longest = Math.max(...here.map((c) => c.length));
  return atBudget(here.filter((c) => c.length === longest)).map((cell) => ({
    cell,
    points: here.filter((o) => o.press === cell.press && firing(o) === firing(cell) && o.tasks === o.of && has(value(o)))
      .sort((a, b) => a.length - b.length).map((o) => [o.length, value(o)]),
  })).filter((line) => line.points.length);
}

const LOADING = [
  { title: "time per output token", yName: "ms per token", of: (c) => (c.tpot_s > 0 && !c.disturbed ? 1000 * c.tpot_s : null), unit: "ms" },
  { title: "bytes a decoding step reads", yName: "MiB per step", of: (c) => (has(c.step_bytes) ? c.step_bytes / 2 ** 20 : null), unit: "MiB" },
];

function drawLoading() {
  const group = allLengths(chartCells).filter((c) => c.device);
  const wanted = settingsOf(group).flatMap((setting) => byDevice(group.filter((c) => settingOf(c) === setting)).flatMap((device) => {
    const here = group.filter((c) => settingOf(c) === setting && c.device === device);
    return LOADING.map((one) => ({ one, here, device, lines: byLength(here, one.of) })).filter(({ lines }) => lines.some((l) => l.points.length > 1));
  }));
  byId("s-loading").hidden = !wanted.length;
  if (!wanted.length) return;
  byId("n-loading").textContent = `${state.task || "mean over tasks"}; same presses as above, all lengths; lower is better`;
  const width = panelWidth("loading", wanted.length);
  fill("loading", wanted.map(({ one, here, device, lines }) => {
    const title = `${one.title}, ${settingTitle(here[0])}`;
    const axis = { low: true, yDomain: [0, 1.08 * Math.max(...lines.flatMap((l) => l.points.map((p) => p[1])))] };
    return panel(title, deviceNote(device), curves(lines, { width, axis, log: true, xName: "length (tokens, log scale)", yName: one.yName, ticks: whole, show: (v) => `${about(v)} ${one.unit}`, label: title }));
  }));
}

const batches = (c) => (has(c.session_bytes) ? Math.floor((state.memory * 2 ** 30) / c.session_bytes) : null);

// The memory that batches are computed for, where any run says what a session takes.
function drawMemory() {
  if (!cells.some((c) => has(c.session_bytes))) return;
  fill("memory", el("label", {}, "Largest batch in ", el("input", {
    type: "number", name: "memory", min: "0.001", step: "any", value: String(state.memory), inputmode: "decimal",
    oninput: (e) => { const v = Number(e.target.value); if (v > 0) { state.memory = v; drawMethods(); } },
  }), " GiB for caches: sessions that fit, each at the most it held with an answer; weights and the prompt being read come on top"));
}
