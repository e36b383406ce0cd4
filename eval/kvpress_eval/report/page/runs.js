// Every run with all its columns, the gates and the lists of what went wrong.

const yes = (v) => (v === true ? "yes" : v === false ? "no" : NONE);
const timed = (show) => (v, r) => time(show(v), r.quiet === false);
const ROW_COLUMNS = [
  { name: "press", value: (r) => r.press, show: (r) => pressCell(r, r.target && el("span", { class: "ci" }, `solved for ${r.target}`), r.status === "failed" && el("span", { class: "tag bad" }, "failed"), r.status === "unreachable" && el("span", { class: "tag" }, "not reachable"), r.superseded && el("span", { class: "tag" }, "superseded"), r.origin && el("span", { class: "tag" }, "imported"), r.twin && el("span", { class: "tag" }, "reference scorer")) },
  ...[
    ["setting", "model", "", (r) => r.model], ["setting", "task", "", (r) => r.task], ["setting", "mode", "", (r) => r.mode],
    ["setting", "length", "tokens", (r) => r.length, whole], ["setting", "history", "", (r) => r.history], ["setting", "compression fired", "", (r) => r.schedule],
    ["setting", "question visible", "", (r) => r.question_visible, yes], ["setting", "rendering", "", (r) => r.rendering],
    ["setting", "source", "", (r) => r.source], ["setting", "prompts", "", (r) => r.prompts], ["setting", "scorer", "", (r) => r.scorer], ["setting", "origin", "", (r) => r.origin],
    ["setting", "depth", "%", (r) => r.depth, String],
    ["setting", "resolved press", "", (r) => r.press_spec, null, "clip"], ["setting", "seed", "", (r) => r.seed, String, "num"],
    ["quality", "sessions", "", (r) => (r.status === "ok" ? r.sessions : null), whole], ["quality", "turns", "n", (r) => (r.status === "ok" ? r.turns : null), whole],
    ["quality", "first", "turn", (r) => r.first, points], ["quality", "later", "turns", (r) => r.later, points],
    ["quality", "guessing", "points", (r) => r.chance, points], ["quality", "hit limit", "%", (r) => r.hit_limit, points], ["quality", "empty", "%", (r) => r.empty, points],
    ["quality", "cut", "% sessions", (r) => r.cut, points], ["quality", "evidence cut", "% turns", (r) => r.evidence_cut, points],
    ["memory", "bytes/dense", "", (r) => r.bytes_ratio, percent], ["memory", "bytes", "MiB", (r) => r.bytes, mebi], ["memory", "dense", "MiB", (r) => r.bytes_dense, mebi],
    ["memory", "logical length", "tokens", (r) => r.logical_length, whole], ["memory", "peak", "MiB", (r) => r.peak_memory, mebi], ["memory", "peak of", "", (r) => r.peak_kind],
    ["speed", "TTFT", "s", (r) => r.ttft_s, timed(seconds)], ["speed", "per token", "ms", (r) => r.tpot_s, timed(millis)], ["speed", "press", "s", (r) => r.press_s, timed(seconds)],
    ["speed", "prefill", "s", (r) => r.prefill_s, timed(seconds)], ["speed", "run", "s", (r) => r.seconds, timed((v) => fixed(v))],
    ["life", "prefill", "tokens/s", (r) => r.prefill_tps, timed(whole)], ["life", "fired", "times", (r) => r.fired, (v) => about(v)],
    ["life", "fork", "ms", (r) => r.fork_s, timed(millis)], ["life", "save", "ms", (r) => r.save_s, timed(millis)], ["life", "load", "ms", (r) => r.load_s, timed(millis)],
    ["life", "file", "MiB", (r) => r.file_bytes, mebi], ["life", "reload exact", "", (r) => r.reload_exact, yes],
    ["life", "read", "MiB/step", (r) => r.step_bytes, mebi], ["life", "decoded at", "tokens", (r) => r.decode_length, whole], ["life", "session", "MiB at most", (r) => r.session_bytes, mebi],
    ["provenance", "device", "", (r) => r.device], ["provenance", "dtype", "", (r) => r.dtype], ["provenance", "attention", "", (r) => r.attn], ["provenance", "threads", "", (r) => r.threads, whole],
    ["provenance", "versions", "", (r) => r.versions, null, "clip"], ["provenance", "commit", "", (r) => r.commit.slice(0, 10)], ["provenance", "started", "", (r) => r.started],
    ["provenance", "run", "", (r) => r.run_id, null, "clip"], ["provenance", "command", "", (r) => r.command, null, "clip"],
  ].map(([group, name, unit, value, show, kind]) => ({
    group, name, unit, value, constant: group === "setting" || group === "provenance", num: Boolean(show) && show !== yes, clip: kind === "clip",
    show: (r) => { const v = value(r); return !has(v) || v === "" ? NONE : show ? show(v, r) : v; },
  })),
];
const at = ROW_COLUMNS.findIndex((c) => c.name === "sessions");
ROW_COLUMNS.splice(at, 0,
  { group: "quality", name: "score", unit: "points, 95 %", num: true, value: (r) => r.score && r.score[0], show: (r) => (r.score ? withRange(points(r.score[0]), range(r.score, points)) : NONE) },
  { group: "quality", name: "Δ full", unit: "points, 95 %", num: true, hint: "paired difference to the full cache", value: (r) => r.diff && r.diff[0], show: (r) => contrastCell(r) },
  { group: "quality", name: "verdict", unit: "margin 2", hint: "not worse than the full cache by 2 points", value: (r) => r.verdict, show: verdictCell },
  { group: "quality", name: "retained", unit: "of full", num: true, hint: "score / score of the full cache, where that is at least 20", value: (r) => r.retention, show: (r) => percent(r.retention) },
  { group: "quality", name: "flips", unit: "lost won", num: true, hint: "answers right with the full cache and wrong now, and the reverse", value: (r) => r.flips && -r.flips[0], show: flips },
  { group: "quality", name: "p", unit: "Holm", num: true, hint: "sign-flip p, Holm-adjusted", value: (r) => r.p_holm, show: (r) => chance(r.p_holm) },
  { group: "quality", name: "detects", unit: "points", num: true, hint: "smallest true difference found with power 80 %", value: (r) => r.detectable, show: (r) => points(r.detectable) });
ROW_COLUMNS.splice(at + 2, 0, ...MEASURES.flatMap((m) => [
  { group: "quality", name: m.title, unit: "mean", num: true, hint: m.about, value: (r) => m.mean(r), show: (r) => m.show(m.mean(r)) },
  { group: "quality", name: `Δ ${m.title}`, unit: "95 %", num: true, hint: `${m.about}: paired difference to the full cache`, value: (r) => m.diff(r) && m.diff(r)[0], show: (r) => shiftCell(m, r) },
]));
ROW_COLUMNS.splice(1, 0, {
  group: "copy", name: "command", show: (r) => (r.command ? copyButton(r) : NONE),
});
if (rows.some((r) => r.answers)) ROW_COLUMNS.splice(2, 0, { group: "copy", name: "answers", show: (r) => (r.answers ? answersButton(r) : NONE) });
const copyButton = (r) => el("button", { type: "button", class: "copy", "aria-label": `Copy the command of ${r.press} on ${r.task}`, onclick: (e) => copy(r.command, e.target) }, "Copy");
const rowGroups = { setting: true, quality: true, memory: true, speed: true, life: true, provenance: false };

function drawRows() {
  const records = shownRows();
  const bad = records.filter((r) => r.status === "failed").length, beyond = records.filter((r) => r.status === "unreachable").length;
  byId("n-rows").textContent = `${whole(records.length)} of ${whole(rows.length)} rows${bad ? `, ${bad} failed` : ""}${beyond ? `, ${beyond} amounts not reachable` : ""}; ▸ opens everything a row says`;
  fill("groups", "Columns:", Object.keys(rowGroups).map((name) => el("button", {
    type: "button", "aria-pressed": String(rowGroups[name]), onclick: () => { rowGroups[name] = !rowGroups[name]; drawRows(); byId("groups").querySelectorAll("button")[Object.keys(rowGroups).indexOf(name)].focus(); },
  }, name)), el("button", { type: "button", class: "more", onclick: download }, "Download these rows (CSV)"));
  // What is the same in every row shown is said once, above, instead of in a column.
  const same = ROW_COLUMNS.filter((c) => c.constant && records.length > 1 && uniq(records.map(c.value)).length === 1);
  const told = same.filter((c) => has(c.value(records[0])) && c.value(records[0]) !== "");
  byId("same").replaceChildren(...told.length ? [el("b", {}, "In all rows shown: "), told.map((c) => `${c.name} ${[c.show(records[0])].flat()[0]}`).join("; ")] : []);
  const measured = (c) => c.group !== "life" || records.some((r) => has(c.value(r))); // rows of before have no life
  const columns = ROW_COLUMNS.filter((c) => !same.includes(c) && measured(c) && (!c.group || c.group === "copy" || rowGroups[c.group]))
    .map((c) => (c.group === "copy" ? { ...c, group: "" } : c));
  fill("rows", sortable({
    key: "rows", label: "Every run", columns, records, tall: true, limit: 250, rowClass: (r) => (r.superseded ? "superseded" : null),
    detail: (r) => [["error", r.error], ["about", methodLinks(r.family)], ["asked", r.method], ["press", r.press], ["resolved", r.press_spec], ["compression fired", firing(r)], ["paired with", r.reference],
      ["raw p", has(r.p) ? chance(r.p) : ""], ["sub-tasks", r.subtasks], ["beside the score", r.extras], ...MEASURES.map((m) => [m.title, has(m.mean(r)) ? [m.show(m.mean(r)), shiftText(m, r)].filter(Boolean).join("; minus full ") : ""]), ["bytes by kind", r.kinds], ["not measured", r.not_measured], ["kept everything", r.kept_all ? "yes: the press changed nothing in any session" : ""], ["does not hold here", r.unmet], ["quiet", yes(r.quiet)], ["disturbance", r.disturbance], ["peak of", r.peak_kind], ["versions", r.versions], ["device", [r.device, r.dtype, r.threads && `${r.threads} threads`].filter(Boolean).join(", ")],
      ["commit", r.commit], ["started", r.started], ["suite", r.suite], ["file", r.path], ["command", r.command]],
  }));
}

function drawFailed() {
  drawErrors("failed", "Failed cells", "bad", rows.filter((r) => r.status === "failed"));
  drawErrors("unreachable", "Amounts that cannot be reached", "soft", rows.filter((r) => r.status === "unreachable"));
}

function drawErrors(id, label, tone, records) {
  if (!records.length) return fill(id, el("p", { class: "soft" }, "None."));
  fill(id, region(label, false, el("table", {},
    el("thead", {}, el("tr", {}, ["press", "model", "task", "mode", "length", "command", "error"].map((n, i) => el("th", { scope: "col", class: n === "length" ? "num" : i ? null : "corner" }, n)))),
    el("tbody", {}, records.map((r) => el("tr", {}, el("th", { scope: "row" }, pressCell({ ...r, press: r.method })), [r.model, r.task, r.mode].map((v) => el("td", {}, v)),
      el("td", { class: "num" }, whole(r.length)), el("td", {}, r.command ? copyButton(r) : NONE), el("td", {}, el("code", { class: tone }, r.error || "no message"))))))));
}

// All columns of the rows shown, as a file: what a spreadsheet or pandas reads.
// A spreadsheet takes a text that begins like this for a formula.
const csvText = (v) => { const t = [has(v) ? v : ""].flat(3).join(" ").replace(/^[=+\-@\t\r]/, (c) => (typeof v === "number" ? c : `'${c}`)); return /[",\n\r]/.test(t) ? `"${t.replaceAll('"', '""')}"` : t; };
function csvOf(records) {
  const columns = ROW_COLUMNS.filter((c) => c.value);
  const more = [["status", (r) => r.status], ["asked", (r) => r.asked], ["target", (r) => r.target], ["score low", (r) => r.score && r.score[1]], ["score high", (r) => r.score && r.score[2]],
    ["difference low", (r) => r.diff && r.diff[1]], ["difference high", (r) => r.diff && r.diff[2]], ["error", (r) => r.error]];
  const all = [...columns.map((c) => [c.unit ? `${c.name} (${c.unit})` : c.name, c.value]), ...more];
  return [all.map(([name]) => csvText(name)), ...records.map((r) => all.map(([, value]) => csvText(value(r))))].map((line) => line.join(",")).join("\r\n") + "\r\n";
}
const download = () => {
  const link = el("a", { href: URL.createObjectURL(new Blob([csvOf(shownRows())], { type: "text/csv" })), download: `kvpress-${(data.suites.find((s) => s.here) || {}).title || "rows"}.csv`.toLowerCase().replace(/[^a-z0-9.]+/g, "-") });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

function drawGates() {
  const bad = data.gates.filter((g) => g.verdict === "fail");
  const box = byId("gates");
  box.querySelector("summary").replaceChildren(
    el("b", { class: bad.length ? "bad" : "good" }, bad.length ? "✗ " : "✓ ", `Sanity gates: ${data.tally}`),
    bad.length ? `; failing: ${bad.map((g) => g.name).join("; ")}` : "", el("span", { class: "soft" }, "  (computed from the rows)"));
  box.open = bad.length > 0 && innerWidth > 760; // on a narrow screen the line above says which
  const words = { pass: "✓ pass", fail: "✗ fail", "not checked": "– not checked" };
  box.append(region("Sanity gates", false, el("table", {},
    el("thead", {}, el("tr", {}, ["verdict", "gate", "checked", "failures"].map((n, i) => el("th", { scope: "col", class: i > 1 ? "num" : null }, n)))),
    el("tbody", {}, data.gates.map((g) => el("tr", {}, el("td", { class: g.verdict === "fail" ? "bad" : g.verdict === "pass" ? "good" : "soft" }, words[g.verdict]),
      el("td", {}, el("b", {}, g.name), `: ${g.claim}`, g.note && ` (${g.note})`,
        g.failures.length > 0 && el("ul", {}, g.failures.slice(0, 12).map((f) => el("li", {}, f)), g.failures.length > 12 && el("li", {}, `${g.failures.length - 12} more`))),
      el("td", { class: "num" }, whole(g.checked)), el("td", { class: "num" }, whole(g.failures.length))))))));
}
