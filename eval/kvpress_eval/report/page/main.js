// Filters and the drawing order.

const options = (field) => uniq(rows.map((r) => r[field])).sort((a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en")));
const largest = (field) => (values) => values.map((v) => [rows.filter((r) => r[field] === v).length, v]).sort((a, b) => b[0] - a[0])[0][1];
const FIELDS = [
  { field: "model", label: "Model", all: "all models", start: largest("model") },
  { field: "task", label: "Task", all: "all tasks (macro)", start: () => "" },
  { field: "mode", label: "Mode", all: "all modes", start: () => "" },
  { field: "length", label: "Length (tokens)", all: "all lengths", start: () => "", show: whole },
  { field: "history", label: "History", all: "all", start: largest("history"), optional: true },
  { field: "rendering", label: "Rendering", all: "all", start: largest("rendering"), optional: true },
  { field: "dtype", label: "Dtype", all: "all", start: () => "", optional: true },
  { field: "device", label: "Device", all: "all devices", start: () => "", show: (v) => v || "not known", optional: true },
  { field: "source", label: "Source", all: "all sources", start: () => "", optional: true },
  { field: "prompts", label: "Prompts", all: "all", start: () => "", optional: true },
  { field: "scorer", label: "Scorer", all: "all scorers", start: () => "", optional: true },
  { field: "origin", label: "Measured by", all: "all", start: () => "", show: (v) => v || "this harness", optional: true },
  { field: "variant", label: "Variant", all: "all", start: () => "", show: (v) => v || "usual", optional: true },
];

// A choice that leaves nothing (that model was never run at that length) moves the other filters, not the reader.
function settle(changed) {
  if (rows.some((r) => inFacet(r) && (state.task === "" || r.task === state.task))) return;
  const open = (field) => field !== changed && field !== "model";
  for (const { field } of FIELDS) if (open(field)) state[field] = "";
  for (const { field } of FIELDS) if (!rows.some(inFacet) && field !== changed) state[field] = "";
  settleLength();
}
function settleLength() {
  const lengths = rows.filter((r) => { const kept = state.length; state.length = ""; const ok = inFacet(r); state.length = kept; return ok; }).map((r) => r.length);
  state.length = lengths.length ? String(Math.max(...lengths)) : "";
}
// On a narrow screen the result comes first: what is filtered is one line, and opens; what all is about comes after.
function foldFilters() {
  const wide = innerWidth > 760, failing = data.gates.some((g) => g.verdict === "fail");
  byId("narrow").open = wide;
  if (wide || failing) document.querySelector("header").append(byId("about"));
  else byId("below").append(byId("about"));
}
function showFilters() {
  const chosen = FIELDS.filter(({ field }) => byId("filters").querySelector(`select[name=${field}]`))
    .map(({ field, all, show }) => (state[field] === "" ? all : show ? show(state[field]) : state[field]));
  byId("narrow").querySelector("summary").textContent = `Filters: ${[...chosen, state.text && `“${state.text}”`].filter(Boolean).join(", ")}`;
  for (const select of byId("filters").querySelectorAll("select")) select.value = state[select.name];
}

function draw() {
  hideTip();
  document.documentElement.style.scrollPaddingTop = innerWidth > 760 ? `${byId("narrow").offsetHeight + 8}px` : "0"; // they stay on top
  // The heat map follows the text filter too: which press of which table has a run that matches.
  shownCells.cache = new Set((words().length ? shownRows() : rows.filter(inFacet)).map((r) => `${r.facet} ${r.method}`));
  for (const step of [drawCounts, drawQuality, drawSelected, drawSpeed, drawForced, drawMethods, drawEqual, drawTurns, drawLengths, drawLoading, drawHeat, drawDepths, drawRows]) step();
}

// After a selection: charts, its own table, and the marks in the others, which stay as the reader sorted them.
function drawSelection() {
  hideTip();
  for (const step of [drawQuality, drawSelected, drawSpeed, drawTurns, drawLengths, drawLoading, drawSuites, markSelected]) step();
}
function markSelected() {
  for (const button of document.querySelectorAll("button.pick")) button.setAttribute("aria-pressed", String(selected.has(button.dataset.press)));
}

function drawFilters() {
  const selects = FIELDS.map(({ field, label, all, start, show, optional }) => {
    const values = options(field);
    state[field] = values.length ? String(start(values)) : "";
    if (optional && values.length < 2) { state[field] = ""; return null; }
    return el("label", {}, label, el("select", { name: field, onchange: (e) => { state[field] = e.target.value; settle(field); showFilters(); draw(); } },
      el("option", { value: "" }, all),
      values.map((v) => el("option", { value: v }, show ? show(v) : v))));
  });
  settleLength();
  let wait;
  const search = el("input", { type: "search", name: "text", placeholder: "press, device, error …", autocomplete: "off", oninput: (e) => {
    clearTimeout(wait);
    wait = setTimeout(() => { state.text = e.target.value; showFilters(); draw(); }, 120);
  } });
  fill("filters", selects, el("label", {}, "Text", search), el("button", { type: "button", onclick: () => { state.text = ""; drawFilters(); draw(); } }, "Reset"));
  showFilters();
  byId("filters").addEventListener("submit", (e) => e.preventDefault());
}

function drawBudget() {
  const presses = cells.filter((c) => !c.control && c.press !== "full" && has(c.bytes_ratio));
  const near = (b) => uniq(presses.filter((c) => Math.abs(Math.log2(c.bytes_ratio / b)) < 0.75).map((c) => c.family)).length;
  const steps = [0.5, 0.25, 0.125, 0.0625, 0.03125].filter(near);
  const best = [...steps].sort((a, b) => near(b) - near(a))[0] ?? 0.25;
  state.budget = 2 * near(0.25) >= near(best) ? 0.25 : best; // a quarter is usual, where enough presses are near it
  const show = () => fill("budget", steps.length ? "Presses that hold about" : "", steps.map((b) => el("button", {
    type: "button", "aria-pressed": String(b === state.budget),
    onclick: () => { state.budget = b; show(); drawTurns(); drawLengths(); drawLoading(); byId("budget").querySelector("[aria-pressed=true]").focus(); },
  }, `${Number((100 * b).toPrecision(3))} %`)), steps.length ? "of the dense bytes" : "");
  show();
}

const count = (n, one, many = `${one}s`) => `${whole(n)} ${n === 1 ? one : many}`;
const totals = [
  count(rows.filter((r) => !r.twin).length, "run"), count(rows.filter((r) => r.status === "failed").length, "failed", "failed"),
  ...[rows.filter((r) => r.status === "unreachable").length].filter(Boolean).map((n) => count(n, "amount that cannot be reached", "amounts that cannot be reached")),
  count(uniq(rows.map((r) => r.method)).length, "press", "presses"), count(data.tasks.length, "task"), count(uniq(rows.map((r) => r.model)).length, "model"),
].join(", ");
function drawCounts() {
  const note = data.notes[state.model];
  byId("counts").textContent = totals + (note ? `. ${state.model}: ${note}` : "");
}
if (data.ignored.length) fill("ignored", el("h3", {}, "Files that are not rows"), el("ul", {}, data.ignored.map((f) => el("li", {}, el("code", {}, f.path), `: ${f.reason}`))));
function drawSuites() {
  document.title = `kvpress results: ${data.suites.find((s) => s.here)?.title ?? ""}`;
  if (data.suites.length < 2) return;
  fill("suites", "Suites:", data.suites.map((s) => el("a", { href: s.page + selectionHash(), "aria-current": s.here ? "page" : null }, s.title)));
}
dye();
foldFilters();
drawSuites();
drawGates();
drawFilters();
drawMemory();
drawBudget();
drawFailed();
draw();

let resizing, width = innerWidth;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => { if (width !== innerWidth) { width = innerWidth; foldFilters(); draw(); } }, 150);
});
dark.addEventListener("change", () => { dye(); draw(); });
addEventListener("scroll", hideTip, { passive: true });
