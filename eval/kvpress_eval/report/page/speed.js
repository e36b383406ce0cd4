// Quality against time, and what loading a cache costs. Times are drawn apart for each device: they do not compare.

const NICE = [1, 2, 5];
const about = (v) => `${Number(v.toPrecision(3))}`;
const byDevice = (group) => uniq(group.map((c) => c.device)).sort();
const deviceNote = (device) => (uniq(cells.map((c) => c.device)).length > 1 ? device : null);

function drawSpeed() {
  const timed = shownCells().filter((c) => has(c.tpot_s) && c.tpot_s > 0 && c.device);
  const group = timed.filter((c) => !c.disturbed);
  byId("s-speed").hidden = !group.length;
  if (!group.length) return;
  byId("n-speed").textContent = `${state.task || "macro mean over tasks"}; higher and further left is better; times of one device in each panel${group.length < timed.length ? `; ${timed.length - group.length} left out, which other programs disturbed` : ""}`;
  const panels = facetsOf(group).flatMap((facet) => byDevice(group.filter((c) => c.facet === facet)).map((device) => [facet, device]));
  const width = panelWidth("speed", panels.length);
  const bounds = scoreRange(group.flatMap((c) => [c.score[0], c.score[1], c.score[2]]));
  fill("speed", panels.map(([facet, device]) => {
    const here = group.filter((c) => c.facet === facet && c.device === device);
    const notes = [deviceNote(device), here.some((c) => c.tasks < c.of) && "hollow: not all tasks, not comparable"].filter(Boolean);
    return panel(facetTitle(facet), notes.join("; "), scatterPanel(here, facet, width, bounds, timeAxis(facet, device)));
  }));
}

function timeAxis(facet, device) {
  const times = cells.filter((c) => c.facet === facet && c.task === state.task && c.device === device && c.tpot_s > 0 && !c.disturbed).map((c) => 1000 * c.tpot_s);
  const low = Math.min(...times) / 1.12, high = Math.max(...times) * 1.12, ticks = [];
  for (let ten = 10 ** Math.floor(Math.log10(low)); ten <= high; ten *= 10) {
    for (const digit of high / low > 20 ? NICE : [1, 1.5, 2, 3, 4, 5, 6, 8]) if (digit * ten >= low && digit * ten <= high) ticks.push([digit * ten, about(digit * ten)]);
  }
  return { device, of: (c) => 1000 * c.tpot_s, front: "fast_front", low, high, ticks, name: "ms per output token (log scale)", against: "time per token" };
}

// An axis from zero with about five round ticks.
function zeroAxis(values) {
  const most = Math.max(...values), ten = 10 ** Math.floor(Math.log10(most / 4));
  const step = [1, 2, 5, 10].map((d) => d * ten).find((s) => most / s <= 5);
  const top = Math.ceil(most / step) * step, ticks = [];
  for (let v = 0; v <= top + step / 2; v += step) ticks.push([v, about(v)]);
  return { bounds: [0, top], yTicks: ticks };
}

const LOADING = [
  { title: "time per output token", yName: "ms per token", of: (c) => (c.tpot_s > 0 && !c.disturbed ? 1000 * c.tpot_s : null), unit: "ms" },
  { title: "bytes a decoding step reads", yName: "MiB per step", of: (c) => (has(c.step_bytes) ? c.step_bytes / 2 ** 20 : null), unit: "MiB" },
];

function drawLoading() {
  const group = allLengths(shownCells).filter((c) => c.device);
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
    const axis = zeroAxis(lines.flatMap((l) => l.points.map((p) => p[1])));
    return panel(title, deviceNote(device), linePanel(lines, {
      width, ...axis, log: true, yName: one.yName, xName: "length (tokens, log scale)", ticks: whole, label: title, show: (v) => `${about(v)} ${one.unit}`,
    }));
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
