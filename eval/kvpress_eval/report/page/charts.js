// The charts of quality. Each draws one panel per model x mode x length (x history x rendering) that the filters leave.

const facetsOf = (group) => uniq(group.map((c) => c.facet)).sort((a, b) => a - b);
const nothing = (id) => fill(id, el("p", { class: "soft" }, "No finished run matches the filters."));

function drawQuality() {
  const group = shownCells().filter((c) => has(c.bytes_ratio));
  const facets = facetsOf(group);
  byId("n-quality").textContent = `${state.task || "macro mean over tasks"}; higher and further left is better; bars are 95 % intervals`;
  if (!facets.length) return nothing("quality");
  const width = panelWidth("quality", facets.length);
  const floor = Math.min(0.5, ...group.map((c) => c.bytes_ratio));
  const bounds = scoreRange(group.flatMap((c) => [c.score[0], c.score[1], c.score[2]]));
  fill("quality", facets.map((facet) => {
    const here = group.filter((c) => c.facet === facet);
    const partial = here.some((c) => c.tasks < c.of);
    return panel(facetTitle(facet), partial && "hollow: not all tasks, not comparable",
      scatterPanel(here, facet, width, bounds, bytesAxis(floor, Math.max(1, ...here.map((c) => c.bytes_ratio)))));
  }));
}

// A cost to draw quality against: of(cell), the flag of its front, its range and ticks (log scale).
function bytesAxis(floor, high) {
  const low = 2 ** Math.floor(Math.log2(floor) - 0.05), ticks = [];
  for (let v = 1; v >= low * 0.999; v /= 2) ticks.push([v, `${Number((100 * v).toPrecision(3))} %`]);
  return { of: (c) => c.bytes_ratio, front: "front", low, high, ticks, name: "bytes held / bytes of the dense cache (log scale)", against: "bytes" };
}

function scatterPanel(here, facet, width, bounds, { of, front: flag, device, low, high, ticks, name, against }) {
  const span = Math.log2(high) - Math.log2(low);
  const narrow = ticks.length > width / 62;
  const { root, box, X, Y } = frame({
    width, height: Math.round(Math.max(290, Math.min(400, width * 0.6)) + 6 * Math.max(0, uniq(here.map((c) => c.family)).length - 12)), right: 14, y: bounds,
    x: (v) => (Math.log2(v) - Math.log2(low)) / span, ticks: narrow ? ticks.filter((_, i) => i % 2 === 0) : ticks,
    xName: name,
    label: `Score against ${against}, ${facetTitle(facet)}. The same numbers are in the table of methods.`,
  });
  const front = cells.filter((c) => c.facet === facet && c.task === state.task && c[flag] && (!device || c.device === device)).sort((a, b) => of(a) - of(b));
  const full = here.find((c) => c.press === "full");
  if (full) root.append(
    full.score[1] !== null && svg("rect", { class: "band", x: box.left, width: box.right - box.left, y: Y(full.score[2]), height: Math.max(0, Y(full.score[1]) - Y(full.score[2])) }),
    svg("line", { class: "reference", x1: box.left, x2: box.right, y1: Y(full.score[0]), y2: Y(full.score[0]) }));
  const chance = full && full.chance;
  if (has(chance) && chance >= Math.max(0.01, bounds[0])) {
    root.append(svg("line", { class: "guess", x1: box.left, x2: box.right, y1: Y(chance), y2: Y(chance) }));
  }
  if (front.length > 1) {
    root.append(svg("path", { class: "front", d: front.map((c, i) => (i ? `H${X(of(c))}V${Y(c.score[0])}` : `M${X(of(c))},${Y(c.score[0])}`)).join("") }));
  }
  const marks = [], segments = [], labels = [];
  for (const family of uniq(here.map((c) => c.family))) {
    const mine = here.filter((c) => c.family === family).sort((a, b) => (a.bytes_ratio ?? 0) - (b.bytes_ratio ?? 0));
    const drawn = item(root, family);
    // only along bytes: there a sweep is a curve, along time it is noise; a control that keeps everything is no part of it
    for (const sweep of device ? [] : uniq(mine.map((c) => `${c.sweep} ${firing(c)}`))) {
      const line = mine.filter((c) => `${c.sweep} ${firing(c)}` === sweep && c.tasks === c.of && !c.control).map((c) => [X(of(c)), Y(c.score[0])]);
      if (line.length > 1) drawn.append(svg("path", { class: "link", d: `M${line.join("L")}` }));
      line.slice(1).forEach(([x, y], i) => {
        for (let t = 0; t <= 1; t += 0.1) segments.push({ x: line[i][0] + (x - line[i][0]) * t, y: line[i][1] + (y - line[i][1]) * t });
      });
    }
    for (const c of mine) {
      const x = X(of(c)), y = Y(c.score[0]);
      marks.push({ x, y });
      if (has(c.score[1])) {
        drawn.append(svg("line", { class: "error", x1: x, x2: x, y1: Y(c.score[1]), y2: Y(c.score[2]) }));
        segments.push({ x, y: Y(c.score[1]) }, { x, y: Y(c.score[2]) });
      }
      drawn.append(mark(family, x, y, 4.6, c.tasks < c.of), tipped(svg("circle", { class: "hit", cx: x, cy: y, r: 11 }), () => cellTip(c)));
    }
    root.append(drawn);
    if (family !== "full") labels.push({
      text: short(family), anchors: mine.filter((c) => !c.control).concat(mine).map((c) => ({ x: X(of(c)), y: Y(c.score[0]) })),
      draw: (x, y) => drawn.append(svg("text", { class: "name", x, y }, short(family))),
    });
  }
  if (full) labels.unshift({
    text: `full cache ${points(full.score[0])}`, anchors: [box.left - 5, (box.left + box.right) / 2].map((x) => ({ x, y: Y(full.score[0]) - 9 })),
    draw: (x, y) => root.append(svg("text", { class: "note", x, y }, `full cache ${points(full.score[0])}`)),
  });
  if (root.querySelector(".guess")) labels.unshift({
    text: `guessing ${points(chance)}`, anchors: [{ x: box.left - 5, y: Y(chance) - 9 }],
    draw: (x, y) => root.append(svg("text", { class: "note", x, y }, `guessing ${points(chance)}`)),
  });
  placeLabels(labels, marks, segments, box);
  if (front.length > 2) placeFrontNote(root, front.map((c) => [X(of(c)), Y(c.score[0])]), box);
  return root;
}

function placeFrontNote(root, front, box) {
  // On the longest flat stretch of the front, under the line, when it is long enough for the words.
  const width = measure("Pareto front", 400) + 12;
  const steps = front.slice(1).map(([x], i) => ({ x: front[i][0], y: front[i][1], w: x - front[i][0] }));
  const step = steps.sort((a, b) => b.w - a.w)[0];
  if (step.w < width || step.y + 18 > box.bottom) return;
  root.append(svg("text", { class: "note", x: step.x + step.w / 2, y: step.y + 16, "text-anchor": "middle" }, "Pareto front"));
}

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

function drawTurns() {
  const group = shownCells();
  const facets = facetsOf(group);
  byId("n-turns").textContent = `${state.task || "macro mean over tasks"}; the press of each method nearest to the chosen bytes`;
  if (!facets.length) return nothing("turns");
  const width = panelWidth("turns", facets.length);
  const bounds = scoreRange(group.flatMap((c) => c.turns));
  fill("turns", facets.map((facet) => {
    const lines = atBudget(group.filter((c) => c.facet === facet)).map((c) => ({ cell: c, points: c.turns.map((y, t) => [t + 1, y]) }));
    const unordered = data.tables[facet].mode === "multi-request";
    return panel(facetTitle(facet), unordered && "each question from a fresh copy: order means nothing",
      linePanel(lines, { width, bounds, xName: unordered ? "question" : "turn", ticks: (v) => String(v), label: `Score by turn, ${facetTitle(facet)}` }));
  }));
}

function drawLengths() {
  const group = allLengths(shownCells);
  const settings = settingsOf(group);
  byId("s-lengths").hidden = !settings.length;
  if (!settings.length) return;
  byId("n-lengths").textContent = `${state.task || "macro mean over tasks"}; same presses as above, all lengths`;
  const width = panelWidth("lengths", settings.length);
  const bounds = scoreRange(group.map((c) => c.score[0]));
  fill("lengths", settings.map((setting) => {
    const here = group.filter((c) => settingOf(c) === setting);
    const title = settingTitle(here[0]);
    return panel(title, null, linePanel(byLength(here, (c) => c.score[0]), { width, bounds, log: true, xName: "length (tokens, log scale)", ticks: whole, label: `Score by length, ${title}` }));
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

function linePanel(lines, { width, bounds, log, xName, ticks, label, yTicks, yName, show = (v) => `score ${points(v)}` }) {
  const name = ({ cell }) => (cell.press === "full" ? "full cache" : `${short(cell.family, width < 420 ? 15 : 26)} ${has(cell.bytes_ratio) ? percent(cell.bytes_ratio).replace(/\.\d+ /, " ") : ""}`);
  const right = Math.min(width * 0.46, 26 + Math.max(0, ...lines.map((l) => measure(name(l)))));
  const xs = uniq(lines.flatMap((l) => l.points.map((p) => p[0]))).sort((a, b) => a - b);
  const scale = log ? Math.log2 : (v) => v;
  const [low, high] = [scale(xs[0] ?? 0), scale(xs[xs.length - 1] ?? 1)];
  const { root, box, X, Y } = frame({
    width, height: Math.round(Math.max(260, Math.min(320, width * 0.55), 15 * lines.length + 50)), right, y: bounds, xName, label, yTicks, yName,
    x: (v) => (high > low ? 0.03 + 0.94 * (scale(v) - low) / (high - low) : 0.5), ticks: xs.map((v) => [v, ticks(v)]),
  });
  const ends = lines.map((l) => Y(l.points.length ? l.points[l.points.length - 1][1] : bounds[0]));
  const at = spread(ends, 14, box.top, box.bottom);
  lines.forEach((line, i) => {
    const { cell } = line;
    const xy = line.points.map(([x, y]) => [X(x), Y(y)]);
    if (!xy.length) return;
    const [ex, ey] = xy[xy.length - 1];
    const drawn = item(root, cell.family,
      svg("path", { class: "link", d: `M${xy.join("L")}`, "stroke-dasharray": cell.press === "full" ? "4 4" : null }),
      xy.map(([x, y]) => mark(cell.family, x, y, 3.8)),
      svg("path", { class: "leader", fill: "none", d: `M${ex + 6},${ey}L${box.right + 6},${at[i]}` }),
      svg("text", { class: "name", x: box.right + 9, y: at[i] + 4 }, name(line)),
      xy.map(([x, y], k) => tipped(svg("circle", { class: "hit", cx: x, cy: y, r: 11 }), () => [`${ticks(line.points[k][0])}: ${show(line.points[k][1])}`, ...cellTip(cell)])));
    root.append(drawn);
  });
  return root;
}
