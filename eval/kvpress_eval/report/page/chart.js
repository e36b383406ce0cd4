// Charts: a spec of charts.py filled with rows, drawn by Vega-Lite. Text of rows enters as data only.

const dark = matchMedia("(prefers-color-scheme: dark)");
const kindColour = (kind) => data.kinds[kind][dark.matches ? "dark" : "light"];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function dye() { // the colours of kinds, for the marks in tables
  data.kinds.forEach((_, kind) => document.documentElement.style.setProperty(`--k${kind}`, kindColour(kind)));
}

// As `filled` in charts.py: what has no value is left out, and what is filled in is not looked into again.
const open = (part) => typeof part === "string" && part.startsWith("$");
function filled(part, values) {
  if (open(part)) return values[part.slice(1)];
  if (Array.isArray(part)) return part.map((one) => filled(one, values));
  if (part === null || typeof part !== "object") return part;
  return Object.fromEntries(Object.entries(part).filter(([, one]) => !open(one) || values[one.slice(1)] !== undefined)
    .map(([name, one]) => [name, filled(one, values)]));
}

// Vega-Lite knows no way to keep names apart, Vega does: beside a mark, then above and below, then further away. A name
// that fits nowhere is left to the tooltip.
const NEAR = ["right", "left", "top", "bottom", "top-right", "bottom-right", "top-left", "bottom-left"];
const AROUND = { anchor: [...NEAR, ...NEAR, ...NEAR], offset: [6, 13, 22].flatMap((far) => NEAR.map(() => far)), padding: 10 };
const RIGHT = { anchor: ["right"], offset: [8], padding: 400 };
const apart = (label, avoid, size) => (vega) => {
  const there = avoid.map((name) => `${name}_marks`).filter((name) => vega.marks.some((mark) => mark.name === name));
  const names = vega.marks.find((mark) => mark.name === "names_marks");
  if (names) names.transform = [{ type: "label", ...label, size, avoidMarks: there, sort: { field: "datum.order", order: "ascending" } }];
  return vega;
};

const panel = (title, note, ...content) => el("div", { class: "panel" }, el("h3", {}, title, note && el("small", {}, note)), content);
const panelWidth = (id, count) => {
  const all = byId(id).clientWidth;
  const columns = Math.max(1, Math.min(count, Math.floor((all + 12) / (Math.min(all, 460) + 12))));
  const outer = (all - 12 * (columns - 1)) / columns;
  return Math.max(240, Math.floor(Math.min(outer, count === 1 ? 860 : outer) - (innerWidth > 760 ? 26 : 14)));
};

// A chart in a box of its own. values.points: {x, y, kind, press, place, ...}; `cells` has the cell of each. It is drawn
// when it comes near the window; until then the box keeps its place.
function plot(spec, label, values, { width, height, left = 44, right = 14, top = 26, bottom = 40 }, told) {
  const size = [width - left - right, height - top - bottom];
  const inner = el("div"); // Vega gives its own role to what it draws in
  const box = el("div", { class: "chart", role: "img", "aria-label": `${label}. The same numbers are in the table of methods.` }, inner);
  box.style.height = `${height}px`;
  const bare = Object.fromEntries(Object.entries(values).map(([name, v]) => [name, Array.isArray(v) ? v.map((one) => (one.cell ? { ...one, cell: null } : one)) : v])); // a chart gets values, not what they are from
  const linear = (scale) => (values[scale] === "log" ? undefined : false);
  const full = filled(spec, {
    width: size[0], height: size[1], padding: { left, right, top, bottom }, titleX: -left, limit: Math.min(230, size[0] * 0.6),
    ink: css("--ink"), soft: css("--soft"), paper: css("--paper"), grid: css("--grid"), line: css("--line"),
    font: getComputedStyle(document.body).fontFamily, colours: data.kinds.map((_, kind) => kindColour(kind)),
    legend: null, yCount: values.yTicks ? undefined : 5, xScale: "linear", yScale: "linear", yReverse: false, xZero: linear("xScale"), yZero: linear("yScale"), xLabel: "datum.label", yLabel: "datum.label", ...bare,
  });
  // among many marks a name may lie on those that do not stand out: it has an edge, and the pointer finds them below it
  const avoid = spec === data.charts.lines ? [] : ["points", "reference_names", ...(values.points.length < 40 ? ["rest"] : [])];
  full.layer = full.layer.filter((layer) => layer.data.values.length); // Vega cannot keep names off marks that are not there
  plot.waiting.set(box, () => vegaEmbed(inner, full, {
    mode: "vega-lite", ast: true, actions: false, renderer: "svg", defaultStyle: false, patch: apart(spec === data.charts.lines ? RIGHT : AROUND, avoid, size), logLevel: 1,
    tooltip: (_, event, item, value) => (has(value) && has(item?.datum?.i) ? showTip(event, told(values.points[item.datum.i])) : hideTip()),
  }).then(({ view }) => {
    view.addEventListener("click", (_, item) => { if (has(item?.datum?.i)) pick(values.points[item.datum.i].cell.family); });
    box.dataset.drawn = "yes";
  }).catch((error) => box.replaceChildren(el("p", { class: "bad" }, `This chart cannot be drawn: ${error.message}`))));
  plot.watch.observe(box);
  return box;
}
plot.waiting = new Map();
plot.watch = new IntersectionObserver((seen) => seen.filter((one) => one.isIntersecting).forEach(({ target }) => {
  plot.watch.unobserve(target);
  plot.waiting.get(target)?.();
  plot.waiting.delete(target);
}), { rootMargin: "600px" });
addEventListener("beforeprint", () => { for (const draw of plot.waiting.values()) draw(); plot.waiting.clear(); });

// What the reader selected: presses without their arguments, so that a selection holds for every amount, measure and
// suite. It stands in the address, which links to the other suites take along.
const selected = new Set(new URLSearchParams(location.hash.slice(1)).getAll("press"));
function pick(...families) {
  const all = families.every((family) => selected.has(family));
  for (const family of families) if (family !== "full") selected[all ? "delete" : "add"](family);
  history.replaceState(null, "", selectionHash() || "#");
  byId("said").textContent = selected.size ? `Selected: ${[...selected].join(", ")}` : "Nothing selected";
  drawSelection();
}
const selectionHash = () => (selected.size ? `#${new URLSearchParams([...selected].map((family) => ["press", family]))}` : "");

// Where a cell stands out: selected or found by the words of the filter; then the others step back.
function emphasis() {
  const found = words().length ? new Set(shownRows().map((r) => `${r.facet} ${r.method}`)) : null;
  const lit = (c) => selected.has(c.family) || Boolean(found?.has(`${c.facet} ${c.press}`));
  const any = cells.some((c) => c.press !== "full" && lit(c));
  return { any, lit, place: (c, front) => (any ? (lit(c) ? "lit" : "dim") : front ? "front" : "rest") };
}
