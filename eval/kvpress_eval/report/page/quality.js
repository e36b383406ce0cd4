// Quality against a cost: bytes held, or time. One panel per model x mode x length (x history x rendering).

const facetsOf = (group) => uniq(group.map((c) => c.facet)).sort((a, b) => a - b);
const nothing = (id) => fill(id, el("p", { class: "soft" }, "No finished run matches the filters."));

// What can be on the vertical axis: of(cell) is [mean, low, high] in what the axis shows, text and span its digits in the
// tables; low: less is better.
const klOf = new Map(data.forced.flatMap((f) => f.lines.map((line) => [cells[line.cell], line.kl])));
const METRICS = [
  klOf.size && { name: "KL", title: "KL to the full cache, nats a token: less is better, and up", low: true, log: true, of: (c) => klOf.get(c)?.[3], text: (c) => klOf.get(c)[1], span: (c) => klOf.get(c)[2] },
  { name: "score", title: "score (points)", of: (c) => c.score.map((v) => (has(v) ? 100 * v : v)), text: (c) => points(c.score[0]), span: (c) => range(c.score, points) },
  ...MEASURES.map((m) => ({ name: m.title, title: m.about, of: (c) => c.measures[m.name]?.[0], text: (c) => m.show(m.mean(c)), span: (c) => range(c.measures[m.name][0], m.show) })),
].filter(Boolean);
state.metric = METRICS[0].name;
const metric = () => METRICS.find((m) => m.name === state.metric);
const SCORE = METRICS.find((m) => m.name === "score");

// What can be on the horizontal axis.
const BYTES = {
  of: (c) => (has(c.bytes_ratio) ? 100 * c.bytes_ratio : null), front: (c) => c.front, among: () => "", title: "bytes held, % of the full cache (log scale)",
  label: "format(datum.value, '~r') + ' %'",
};
const TIME = {
  of: (c) => (c.tpot_s > 0 && c.device && !c.disturbed ? 1000 * c.tpot_s : null), front: (c) => c.fast_front, among: (c) => c.device,
  title: "ms per output token (log scale)", label: "format(datum.value, '~r')",
};

// Nothing that costs as little is better. Of scores the rows were analysed for it, which is what the tables mark.
function frontOf(all, cost, y) {
  if (y === SCORE) return all.filter(cost.front);
  const sign = y.low ? -1 : 1;
  let best = -Infinity;
  return all.filter((c) => c.tasks === c.of && !c.control && has(y.of(c))).sort((a, b) => cost.of(a) - cost.of(b) || sign * (y.of(b)[0] - y.of(a)[0]))
    .filter((c) => { const v = sign * y.of(c)[0]; const better = v > best + 1e-12; best = Math.max(best, v); return better; });
}

const sortedBy = (list, of) => [...list].sort((a, b) => of(a) - of(b));
function ticksBetween([low, high], steps) {
  const found = [];
  for (let ten = 10 ** Math.floor(Math.log10(low)); ten <= high; ten *= 10) for (const s of steps) if (s * ten >= low * 0.999 && s * ten <= high * 1.001) found.push(Number((s * ten).toPrecision(6)));
  return found;
}
function costAxis(all, cost, width) {
  const found = all.map(cost.of), low = Math.min(...found) / 1.2, high = Math.max(...found) * 1.12;
  const halves = [100, 50, 25, 12.5, 6.25, 3.125, 1.5625].filter((v) => v >= low && v <= high);
  const tens = ticksBetween([low, high], high / low > 20 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8]);
  const ticks = cost === BYTES && halves.length > 1 ? halves : tens;
  return { xScale: "log", xDomain: [low, high], xTicks: ticks.length > width / 55 ? ticks.filter((_, i) => i % 2 === 0) : ticks, xTitle: cost.title, xLabel: cost.label };
}
function qualityAxis(all, y) {
  const found = all.flatMap((c) => y.of(c) ?? []).filter((v) => has(v) && (!y.log || v > 0));
  let low = Math.min(...found), high = Math.max(...found);
  if (!found.length) [low, high] = [0, 1];
  if (y.log) {
    [low, high] = [low / 1.4, high * 1.4];
    const tens = ticksBetween([low, high], [1]);
    return { yScale: "log", yReverse: true, yDomain: [low, high], yTicks: tens.length > 1 ? tens : ticksBetween([low, high], [1, 2, 5]), yLabel: "format(datum.value, '~r')", yTitle: y.title };
  }
  const pad = Math.max(0.04 * (high - low), 1e-3);
  if (y === SCORE) [low, high] = low < 50 || high - low > 45 ? [Math.min(0, low) - 2, 103] : [low - pad, Math.min(103, high + pad)];
  else [low, high] = [low - pad, high + pad];
  return { yDomain: [low, high], yTitle: y.title, yTicks: y === SCORE && high - low > 45 ? [0, 20, 40, 60, 80, 100] : undefined };
}

const standsOut = (p) => p.place === "front" || p.place === "lit";

// One panel. Names: those of the front, and that of the control; of a selection, all of its amounts.
function scatter(here, facet, cost, y, axes, width) {
  const { any, lit, place } = emphasis();
  const front = sortedBy(frontOf(cells.filter((c) => c.facet === facet && c.task === state.task && has(cost.of(c)) && cost.among(c) === cost.among(here[0])), cost, y), cost.of);
  const full = here.find((c) => c.press === "full"), drawn = (v) => has(v) && (!y.log || v > 0);
  const points = sortedBy(here.filter((c) => drawn(y.of(c)?.[0])), cost.of).map((cell, i) => ({
    i, cell, x: cost.of(cell), y: y.of(cell)[0], kind: nameOf(cell.family), press: cell.press, line: `${cell.sweep} ${firing(cell)}`,
    whole: cell.tasks === cell.of && !cell.control && cell.press !== "full", place: cell.press === "full" ? "lit" : place(cell, front.includes(cell)),
  }));
  const last = {};
  const names = points.filter((p) => p.place === (any ? "lit" : "front") && p.cell !== full).map((p) => {
    if (any) return { ...p, name: short(p.press, 44), order: p.i };
    const again = last.family === p.cell.family; // neighbours on the front are named once
    last.family = p.cell.family;
    return again ? null : { ...p, name: short(p.cell.family, 40), order: p.i };
  }).filter(Boolean);
  if (!any) uniq(points.filter((p) => isControl(p.cell.family)).map((p) => p.cell.family)).forEach((family) => {
    const p = points.filter((one) => one.cell.family === family).pop();
    names.push({ ...p, name: short(family), order: 1000 });
  });
  const [score, low, high] = (full && y.of(full)) || [], ring = points.find((p) => p.cell === full);
  if (ring) names.unshift({ ...ring, name: `full cache ${y.text(full)}`, order: -1 });
  const reference = (name, v, low, high) => drawn(v) && v >= axes.yDomain[0] && v <= axes.yDomain[1] && { name, y: v, low: drawn(low) ? low : v, high: drawn(high) ? high : v };
  const guess = full && y === SCORE && has(full.chance) && full.chance >= 0.01 ? 100 * full.chance : null;
  const intervals = points.filter((p) => any && p.place === "lit" && drawn(y.of(p.cell)[1])).map((p) => ({ x: p.x, kind: p.kind, low: y.of(p.cell)[1], high: y.of(p.cell)[2] }));
  const sweeps = cost === TIME ? [] : points.filter((p) => p.whole && p.place !== "dim" && (any || isControl(p.cell.family)));
  return plot(data.charts.scatter, `${y.name} against ${cost.title}, ${facetTitle(facet)}`, {
    ...axes, ...costAxis(here, cost, width), points, rest: points.filter((p) => !standsOut(p)), standing: points.filter(standsOut),
    front: front.length > 1 ? front.map((c) => ({ x: cost.of(c), y: y.of(c)[0] })).filter((p) => drawn(p.y)) : [],
    sweeps, intervals, names,
    references: [reference("", score, low, high), reference(`guessing ${has(guess) ? fixed(guess) : ""}`, guess)].filter(Boolean),
  }, { width, height: Math.round(Math.max(300, Math.min(440, width * 0.62))) }, pointTip);
}

const hollowNote = (here) => {
  const why = [here.some((c) => c.tasks < c.of) && "not all tasks, not comparable", here.some((c) => c.control) && "keeps everything"].filter(Boolean);
  return why.length > 0 && `hollow: ${why.join(", or ")}`;
};

// The best press at each size, in words: what a reader came for.
function winners(here, y) {
  const sign = y.low ? -1 : 1;
  const able = here.filter((c) => c.tasks === c.of && !c.control && c.press !== "full" && has(y.of(c)?.[0]));
  const told = [50, 25, 12.5, 6.25].map((size) => {
    const fit = able.filter((c) => BYTES.of(c) <= 1.08 * size).sort((a, b) => sign * (y.of(b)[0] - y.of(a)[0]) || BYTES.of(a) - BYTES.of(b));
    return fit.length && { size, best: fit[0] };
  }).filter(Boolean);
  return told.length > 0 && el("table", { class: "best" }, el("caption", { class: "unseen" }, "The best press up to each size"), el("tbody", {}, told.map(({ size, best }) => el("tr", {},
    el("th", { scope: "row" }, `to ~${size} %`),
    el("td", {}, pressCell({ ...best, press: best.press.replace(/ at [\d.]+ %$/, "") })), el("td", { class: "num" }, withRange(y.text(best), y.span(best))), el("td", { class: "num soft" }, percent(best.bytes_ratio))))));
}

function drawQuality() {
  const y = metric(), group = chartCells().filter((c) => has(BYTES.of(c)));
  const facets = facetsOf(group);
  byId("n-quality").textContent = `${state.task || "macro mean over tasks"}; better is up and to the left; the grey line is the Pareto front`;
  fill("metric", METRICS.length > 1 && ["Quality:", METRICS.map((m) => el("button", { type: "button", "aria-pressed": String(m === y), onclick: () => { state.metric = m.name; drawQuality(); byId("metric").querySelector("[aria-pressed=true]").focus(); } }, m.name))]);
  drawLegend(group);
  if (!facets.length) return nothing("quality");
  const width = panelWidth("quality", facets.length), axes = qualityAxis(group, y);
  fill("quality", facets.map((facet) => {
    const here = group.filter((c) => c.facet === facet);
    return panel(facetTitle(facet), hollowNote(here), winners(here, y), scatter(here, facet, BYTES, y, axes, width));
  }));
}

function drawSpeed() {
  const timed = chartCells().filter((c) => c.tpot_s > 0 && c.device), group = timed.filter((c) => has(TIME.of(c)));
  byId("s-speed").hidden = !group.length;
  if (!group.length) return;
  byId("n-speed").textContent = `${state.task || "macro mean over tasks"}; better is up and to the left; times of one device in each panel${group.length < timed.length ? `; ${timed.length - group.length} left out, which other programs disturbed` : ""}`;
  const panels = facetsOf(group).flatMap((facet) => byDevice(group.filter((c) => c.facet === facet)).map((device) => [facet, device]));
  const width = panelWidth("speed", panels.length), axes = qualityAxis(group, SCORE);
  fill("speed", panels.map(([facet, device]) => {
    const here = group.filter((c) => c.facet === facet && c.device === device);
    const notes = [deviceNote(device), hollowNote(here)].filter(Boolean);
    return panel(facetTitle(facet), notes.join("; "), scatter(here, facet, TIME, SCORE, axes, width));
  }));
}

// The kinds of what is drawn; a click selects all presses of a kind.
function drawLegend(group) {
  const families = uniq(group.map((c) => c.family));
  fill("legend", data.kinds.map((kind, i) => {
    const mine = families.filter((family) => kindIndex(family) === i);
    return mine.length > 0 && el("button", { type: "button", disabled: mine[0] === "full", "aria-pressed": String(mine.every((f) => selected.has(f))), onclick: () => pick(...mine) }, swatch(mine[0]), kind.name);
  }), el("span", { class: "soft hint" }, "Click a mark or a press to select it."));
}

// The amounts of what is selected, with what a chart leaves out.
function drawSelected() {
  const group = chartCells().filter((c) => selected.has(c.family));
  byId("s-selected").hidden = !selected.size;
  if (!selected.size) return fill("selected");
  const missing = [...selected].filter((family) => !group.some((c) => c.family === family));
  fill("chosen", "Selected:", [...selected].map((family) => el("button", { type: "button", "aria-label": `Take ${family} out of the selection`, onclick: () => pick(family) }, short(family, 60), " ×")),
    selected.size > 1 && el("button", { type: "button", onclick: () => pick(...selected) }, "Clear"), missing.length > 0 && `Not measured here: ${missing.map((f) => short(f, 60)).join(", ")}`);
  const y = metric(), many = facetsOf(group).length > 1;
  const columns = [
    { name: "press", value: (c) => c.press, show: (c) => pressCell(c, many && el("span", { class: "ci" }, facetTitle(c.facet))) },
    { name: "bytes/dense", num: true, value: BYTES.of, show: (c) => percent(c.bytes_ratio) },
    { name: y.name, unit: "95 %", num: true, value: (c) => y.of(c)?.[0], show: (c) => (has(y.of(c)?.[0]) ? withRange(y.text(c), y.span(c)) : NONE) },
    { name: "Δ full", unit: "points, 95 %", num: true, value: (c) => c.diff && c.diff[0], show: contrastCell },
    { name: "time", unit: "ms/token", num: true, value: (c) => c.tpot_s, show: (c) => time(millis(c.tpot_s), c.disturbed) },
    { name: "command", show: (c) => { const [r, ...more] = runsOf(c); return r?.command ? [copyButton(r), more.length > 0 && el("span", { class: "ci" }, `${r.task}; ${more.length} more tasks below`)] : NONE; } },
  ];
  fill("selected", group.length > 0 && sortable({ key: "selected", label: "Selected presses", columns, records: sortedBy(group, (c) => -(BYTES.of(c) ?? 0)) }));
}
const runsOf = (c) => rows.filter((r) => r.facet === c.facet && r.method === c.press && firing(r) === firing(c) && r.status === "ok" && !r.superseded && (c.task === "" || r.task === c.task));
const pointTip = (p) => [...cellTip(p.cell), ...METRICS.filter((y) => y !== SCORE && has(y.of(p.cell)?.[0])).map((y) => `${y.name} ${y.text(p.cell)} ${y.span(p.cell)}`), runsOf(p.cell)[0]?.command];
