// Axes and label placement shared by the charts.

const measure = (() => {
  const pen = document.createElement("canvas").getContext("2d");
  return (text, weight = 600) => {
    pen.font = `${weight} 11.5px ${getComputedStyle(document.body).fontFamily}`;
    return pen.measureText(text).width;
  };
})();

function scoreRange(values) {
  const low = Math.min(...values.filter(has)), high = Math.max(...values.filter(has));
  if (!Number.isFinite(low)) return [0, 1];
  const down = (v, step) => Math.floor(v / step + 1e-9) * step, up = (v, step) => Math.min(1, Math.ceil(v / step + 0.01) * step);
  return low < 0.5 || high - low > 0.45 ? [down(low, 0.2), up(high, 0.2)] : [down(low, 0.1), up(high, 0.1)];
}

// A frame with a y axis (score in points unless yTicks says other values) and x ticks; gives back scales and the svg.
function frame({ width, height, right, y: [low, high], x, ticks, xName, label, yTicks, yName = "score (points)" }) {
  const box = { left: 34, top: 20, right: width - right, bottom: height - 36 };
  const Y = (v) => box.bottom - ((v - low) / (high - low || 1)) * (box.bottom - box.top);
  const X = (v) => box.left + x(v) * (box.right - box.left);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  const step = high - low > 0.65 || (Math.round(10 * low) % 2 === 0 && Math.round(10 * high) % 2 === 0) ? 0.2 : 0.1;
  const marks = yTicks || [];
  if (!yTicks) for (let v = low; v <= high + 1e-9; v += step) marks.push([v, String(Math.round(100 * v))]);
  for (const [v, text] of marks) {
    root.append(svg("line", { class: "gridline", x1: box.left, x2: box.right, y1: Y(v), y2: Y(v) }),
      svg("text", { x: box.left - 6, y: Y(v) + 4, "text-anchor": "end" }, text));
  }
  for (const [value, text] of ticks) {
    root.append(svg("line", { class: "axis", x1: X(value), x2: X(value), y1: box.bottom, y2: box.bottom + 4 }),
      svg("text", { x: X(value), y: box.bottom + 16, "text-anchor": "middle" }, text));
  }
  root.append(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    svg("text", { x: (box.left + box.right) / 2, y: height - 5, "text-anchor": "middle" }, xName),
    svg("text", { x: 0, y: 9 }, yName));
  return { root, box, X, Y };
}

const panel = (title, note, content) => el("div", { class: "panel" }, el("h3", {}, title, note && el("small", {}, note)), content);

const panelWidth = (id, count) => {
  const whole = byId(id).clientWidth;
  const columns = Math.max(1, Math.min(count, Math.floor((whole + 12) / (Math.min(whole, 460) + 12))));
  const outer = (whole - 12 * (columns - 1)) / columns;
  return Math.max(240, Math.floor(Math.min(outer, count === 1 ? 860 : outer) - (innerWidth > 760 ? 26 : 14)));
};

// Everything of one family in a chart: pointing at it brings it forward and mutes the rest.
function item(root, family, ...children) {
  const group = svg("g", { class: `item ${look(family).colour}`, "data-family": family }, ...children);
  group.addEventListener("pointerenter", () => {
    root.classList.add("dim");
    for (const g of root.querySelectorAll("g.item")) g.classList.toggle("lit", g.dataset.family === family || g.dataset.family === "full");
  });
  group.addEventListener("pointerleave", () => root.classList.remove("dim"));
  return group;
}
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

// One label per item near one of its points, where it covers neither points nor labels; the least bad place otherwise.
function placeLabels(items, marks, segments, box) {
  const placed = [];
  const cost = (r) => {  // 90 x 12: the name of the vertical axis
    let sum = Math.max(0, box.left - r.x) * 4 + Math.max(0, r.x + r.w - box.right - 2) * 4
      + Math.max(0, box.top - 6 - r.y) * 4 + (r.x < 90 && r.y < 12 ? 20 : 0) + Math.max(0, r.y + r.h - box.bottom) * 4;
    for (const m of marks) if (m.x > r.x - 5 && m.x < r.x + r.w + 5 && m.y > r.y - 4 && m.y < r.y + r.h + 4) sum += 40;
    for (const s of segments) if (s.x > r.x && s.x < r.x + r.w && s.y > r.y && s.y < r.y + r.h) sum += 2.5;
    for (const o of placed) if (r.x < o.x + o.w + 4 && o.x < r.x + r.w + 4 && r.y < o.y + o.h + 1 && o.y < r.y + r.h + 1) sum += 160;
    return sum;
  };
  for (const one of items) {
    const w = measure(one.text), h = 13;
    let best = null;
    one.anchors.forEach(({ x, y }, rank) => {
      for (const [dx, dy, extra] of [[9, -h / 2, 0], [-9 - w, -h / 2, 0.5], [-w / 2, -h - 7, 0.5], [-w / 2, 7, 1], [7, -h - 4, 1],
        [7, 4, 1.5], [-w - 7, -h - 4, 1.5], [-w - 7, 4, 2], [12, -h - 14, 6], [12, 14, 6], [-w - 12, -h - 14, 7], [-w - 12, 14, 7]]) {
        const r = { x: x + dx, y: y + dy, w, h };
        const c = cost(r) + extra + 0.4 * rank;
        if (!best || c < best.c) best = { ...r, c };
      }
    });
    if (best && best.c < 120) { placed.push(best); one.draw(best.x, best.y + h - 3); }
  }
}

// Spread label positions down a column, at least `gap` apart where there is room, near to where each wants to be.
function spread(wanted, gap, low, high) {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
  const step = Math.min(gap, (high - low) / Math.max(1, order.length - 1));
  // Groups of touching labels, each centred on the mean of what its members want; groups that meet are merged.
  const groups = [];
  for (const i of order) {
    let group = { ids: [i], sum: wanted[i] };
    const top = (g) => Math.max(low, Math.min(high - step * (g.ids.length - 1), g.sum / g.ids.length - (step * (g.ids.length - 1)) / 2));
    while (groups.length) {
      const before = groups[groups.length - 1];
      if (top(before) + step * before.ids.length <= top(group) + 1e-6) break;
      group = { ids: [...before.ids, ...group.ids], sum: before.sum + group.sum };
      groups.pop();
    }
    group.top = top(group);
    groups.push(group);
  }
  const result = [];
  for (const g of groups) g.ids.forEach((i, k) => { result[i] = g.top + step * k; });
  return result;
}
