// Sortable tables, the heat map, the gates and the lists of what went wrong.

const region = (label, tall, table) => el("div", { class: `scroll${tall ? " tall" : ""}`, tabindex: "0", role: "region", "aria-label": label }, table);
// A press may wrap after a bracket, comma or bar, not inside a number.
const pressText = (press) => el("span", { class: "press" }, press.split(/(?<=[(,|])/).flatMap((part, i) => (i ? [el("wbr"), part] : [part])));
const pressCell = (x, ...more) => el("div", { class: "head" }, swatch(x.family), el("span", {}, pressText(x.press), ...more.map((m) => [" ", m])));
const contrastCell = (c) => (c.diff ? [signedPoints(c.diff[0]), el("span", { class: "star" }, star(c)), el("span", { class: "ci" }, differenceRange(c))] : NONE);
const withRange = (value, interval) => [value, interval && el("span", { class: "ci" }, interval)];

// columns: {name, unit?, group?, num?, value(record) for sorting, show(record)}; the first is the row header.
function sortable({ label, columns, records, rowClass, detail, key, tall, limit }) {
  const sort = (sortable.kept[key] ||= { by: "", down: false, all: false });
  const holder = el("div");
  const id = (c) => `${c.group || ""} ${c.name} ${c.unit || ""}`;
  const compare = (a, b) => {
    const { value } = columns.find((c) => id(c) === sort.by);
    const [x, y] = [value(a), value(b)];
    if (!has(x) || !has(y)) return has(x) ? -1 : has(y) ? 1 : 0; // what is not known stays last either way
    const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en");
    return sort.down ? -order : order;
  };
  const draw = (refocus) => {
    const sorted = columns.some((c) => id(c) === sort.by) ? [...records].sort(compare) : records;
    const shown = limit && !sort.all ? sorted.slice(0, limit) : sorted;
    const edges = columns.map((c, i) => i > 0 && c.group !== columns[i - 1].group);
    const groups = [];
    columns.forEach((c, i) => {
      if (i > 0 && groups.length && groups[groups.length - 1].name === c.group) groups[groups.length - 1].n++;
      else groups.push({ name: c.group, n: 1, first: i === 0 });
    });
    const head = el("thead", {},
      columns.some((c) => c.group) && el("tr", { class: "over" }, groups.map((g) =>
        g.first ? el("td", { class: "corner" }) : el("th", { colspan: g.n, scope: "colgroup", class: "left" }, g.name || ""))),
      el("tr", {}, columns.map((c, i) => el("th", {
        scope: "col", class: [c.num && "num", i === 0 && "corner", edges[i] && "left"].filter(Boolean).join(" "),
        "aria-sort": sort.by === id(c) ? (sort.down ? "descending" : "ascending") : null,
      }, c.value ? el("button", { type: "button", title: c.hint, onclick: () => {
        Object.assign(sort, sort.by === id(c) ? { down: !sort.down } : { by: id(c), down: Boolean(c.num) });
        draw(i);
      } }, el("span", {}, c.name), c.unit && el("i", {}, c.unit)) : c.name))));
    const body = el("tbody", {}, shown.map((r) => {
      const row = el("tr", { class: rowClass ? rowClass(r) : null });
      columns.forEach((c, i) => {
        const content = [c.show(r)].flat(3);
        if (i === 0 && detail) content[0].prepend(expander(row, r, detail, columns.length));
        row.append(i ? el("td", { class: [c.num && "num", c.clip && "clip", edges[i] && "left"].filter(Boolean).join(" ") || null, title: c.clip ? String(c.value(r) ?? "") : null }, content)
          : el("th", { scope: "row" }, content));
      });
      return row;
    }));
    const old = holder.querySelector(".scroll");
    const place = old ? [old.scrollLeft, old.scrollTop] : [0, 0];
    holder.replaceChildren(region(label, tall, el("table", {}, el("caption", { class: "unseen" }, label), head, body)));
    [holder.firstChild.scrollLeft] = place;
    if (shown.length < sorted.length) holder.append(el("button", { type: "button", class: "more", onclick: () => { sort.all = true; draw(); } }, `Show all ${whole(sorted.length)} rows`));
    if (has(refocus)) {
      holder.querySelectorAll("thead tr:last-child th")[refocus].querySelector("button").focus({ preventScroll: true });
      byId("said").textContent = `Sorted by ${columns[refocus].name}, ${sort.down ? "descending" : "ascending"}`;
    }
  };
  draw();
  return holder;
}
sortable.kept = {};

function expander(row, record, detail, width) {
  const button = el("button", { type: "button", class: "expand", "aria-expanded": "false", "aria-label": `Details of ${record.press} on ${record.task}` }, "▸");
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    button.textContent = open ? "▸" : "▾";
    if (open) row.nextSibling.remove();
    else row.after(el("tr", { class: "detail" }, el("td", { colspan: width }, el("dl", {},
      detail(record).filter(([, text]) => has(text) && text !== "").map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])))));
  });
  return button;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  byId("said").textContent = "Command copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function drawMethods() {
  const group = shownCells();
  const facets = facetsOf(group);
  byId("n-methods").textContent = `${state.task || "macro mean over tasks"}; ◆ Pareto front; * p < 0.05 (Holm); 95 % intervals in brackets${group.some((c) => c.tasks < c.of) ? "; † not all tasks" : ""}`;
  if (!facets.length) return nothing("methods");
  const unclear = ambiguous(group);
  const name = (c) => `${c.press}\n${unclear(c) ? firing(c) : ""}`;
  const methods = uniq(group.map(name)).map((id) => {
    const mine = group.filter((c) => name(c) === id);
    return { ...mine[0], note: id.split("\n").pop(), at: Object.fromEntries(mine.map((c) => [c.facet, c])) };
  });
  const ratio = (m) => Math.max(...Object.values(m.at).map((c) => c.bytes_ratio ?? 0));
  methods.sort((a, b) => (b.press === "full") - (a.press === "full") || ratio(b) - ratio(a));
  const columns = [{ name: "press", value: (m) => m.press, show: (m) => pressCell(m, m.note && el("span", { class: "ci" }, m.note)) }];
  for (const facet of facets) {
    const add = (name, unit, value, show, hint) => columns.push({
      name, unit, hint, num: true, group: facetTitle(facet),
      value: (m) => (m.at[facet] ? value(m.at[facet]) : null), show: (m) => (m.at[facet] ? show(m.at[facet]) : NONE),
    });
    add("bytes/dense", "", (c) => c.bytes_ratio, (c) => [c.front ? el("span", { title: "on the Pareto front" }, "◆ ") : "", percent(c.bytes_ratio), c.solved && el("span", { class: "ci" }, c.solved)]);
    add("score", "points", (c) => c.score[0], (c) => (c.tasks < c.of ? [points(c.score[0]), el("span", { title: `${c.tasks} of ${c.of} tasks` }, "†")] : points(c.score[0])));
    add("Δ full", "points, 95 %", (c) => c.diff && c.diff[0], (c) => contrastCell(c), "paired difference to the full cache");
    add("detects", "points", (c) => c.detectable, (c) => points(c.detectable), "smallest true difference found with power 80 %");
    if (data.tables[facet].mode !== "multi-request") { // there the order of questions means nothing
      add("first", "turn", (c) => c.first, (c) => points(c.first));
      add("later", "turns", (c) => c.later, (c) => points(c.later));
    }
    add("time", "ms/token", (c) => c.tpot_s, (c) => millis(c.tpot_s));
  }
  fill("methods", sortable({ key: `methods${facets}`, label: "Methods", columns, records: methods, rowClass: (m) => (m.control ? "control" : null) }));
}

function drawHeat() {
  const group = cells.filter((c) => c.task && (state.task === "" || c.task === state.task)).filter((c) => shownCells.cache.has(`${c.facet} ${c.press}`));
  const facets = facetsOf(group);
  if (!facets.length) return nothing("heat");
  const beside = facets.length > 1 && uniq(group.map((c) => c.task)).length <= 6;
  fill("heat", el("div", { class: beside ? "panels" : "stack" }, facets.map((facet) => {
    const here = group.filter((c) => c.facet === facet);
    const tasks = uniq(here.map((c) => c.task)).sort();
    const unclear = ambiguous(cells.filter((c) => c.facet === facet && c.task === ""));
    const methods = cells.filter((c) => c.facet === facet && c.task === "" && here.some((o) => o.press === c.press));
    const table = el("table", { class: "heat", width: `${(innerWidth > 760 ? 215 : 136) + 66 * tasks.length}px` }, el("caption", {}, facetTitle(facet)),
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "corner" }, "press"), tasks.map((t) => el("th", { scope: "col" }, t.split(/(?<=_)/).flatMap((part, i) => (i ? [el("wbr"), part] : [part])))))),
      el("tbody", {}, methods.map((m) => el("tr", {},
        el("th", { scope: "row" }, pressCell(m, unclear(m) && el("span", { class: "ci" }, firing(m)))),
        tasks.map((task) => heatCell(here.find((c) => c.task === task && c.press === m.press && firing(c) === firing(m)),
          rows.some((r) => r.facet === facet && r.task === task && r.method === m.press && r.status === "failed")))))));
    return region(`Task by task, ${facetTitle(facet)}`, false, table);
  })));
}

function heatCell(c, failed) {
  if (!c) return el("td", { class: failed ? "bad" : "soft" }, failed ? "failed" : "not run");
  const d = c.diff ? c.diff[0] : 0;
  const tint = Math.min(0.62, Math.abs(d) * 0.9);
  return el("td", { background: d ? `rgba(var(--${d < 0 ? "loss" : "gain"}), ${tint.toFixed(3)})` : null, title: cellTip(c).filter(Boolean).join("\n") },
    el("b", {}, points(c.score[0])), el("span", {}, c.diff ? difference(c) : c.press === "full" ? "full" : "not paired"));
}

const yes = (v) => (v === true ? "yes" : v === false ? "no" : NONE);
const ROW_COLUMNS = [
  { name: "press", value: (r) => r.press, show: (r) => pressCell(r, r.target && el("span", { class: "ci" }, `solved for ${r.target}`), r.status === "failed" && el("span", { class: "tag bad" }, "failed"), r.superseded && el("span", { class: "tag" }, "superseded")) },
  ...[
    ["setting", "model", "", (r) => r.model], ["setting", "task", "", (r) => r.task], ["setting", "mode", "", (r) => r.mode],
    ["setting", "length", "tokens", (r) => r.length, whole], ["setting", "history", "", (r) => r.history], ["setting", "compression fired", "", (r) => r.schedule],
    ["setting", "question visible", "", (r) => r.question_visible, yes], ["setting", "rendering", "", (r) => r.rendering],
    ["setting", "resolved press", "", (r) => r.press_spec, null, "clip"], ["setting", "seed", "", (r) => r.seed, String, "num"],
    ["quality", "sessions", "", (r) => (r.status === "ok" ? r.sessions : null), whole], ["quality", "turns", "n", (r) => (r.status === "ok" ? r.turns : null), whole],
    ["quality", "first", "turn", (r) => r.first, points], ["quality", "later", "turns", (r) => r.later, points],
    ["quality", "guessing", "points", (r) => r.chance, points], ["quality", "hit limit", "%", (r) => r.hit_limit, points], ["quality", "empty", "%", (r) => r.empty, points],
    ["memory", "bytes/dense", "", (r) => r.bytes_ratio, percent], ["memory", "bytes", "MiB", (r) => r.bytes, mebi], ["memory", "dense", "MiB", (r) => r.bytes_dense, mebi],
    ["memory", "logical length", "tokens", (r) => r.logical_length, whole], ["memory", "peak", "MiB", (r) => r.peak_memory, mebi], ["memory", "peak of", "", (r) => r.peak_kind],
    ["speed", "TTFT", "s", (r) => r.ttft_s, seconds], ["speed", "per token", "ms", (r) => r.tpot_s, millis], ["speed", "press", "s", (r) => r.press_s, seconds],
    ["speed", "prefill", "s", (r) => r.prefill_s, seconds], ["speed", "run", "s", (r) => r.seconds, (v) => fixed(v)],
    ["provenance", "device", "", (r) => r.device], ["provenance", "dtype", "", (r) => r.dtype], ["provenance", "attention", "", (r) => r.attn], ["provenance", "threads", "", (r) => r.threads, whole],
    ["provenance", "versions", "", (r) => r.versions, null, "clip"], ["provenance", "commit", "", (r) => r.commit.slice(0, 10)], ["provenance", "started", "", (r) => r.started],
    ["provenance", "run", "", (r) => r.run_id, null, "clip"], ["provenance", "command", "", (r) => r.command, null, "clip"],
  ].map(([group, name, unit, value, show, kind]) => ({
    group, name, unit, value, constant: group === "setting" || group === "provenance", num: Boolean(show) && show !== yes, clip: kind === "clip",
    show: (r) => { const v = value(r); return !has(v) || v === "" ? NONE : show ? show(v) : v; },
  })),
];
const at = ROW_COLUMNS.findIndex((c) => c.name === "sessions");
ROW_COLUMNS.splice(at, 0,
  { group: "quality", name: "score", unit: "points, 95 %", num: true, value: (r) => r.score && r.score[0], show: (r) => (r.score ? withRange(points(r.score[0]), range(r.score, points)) : NONE) },
  { group: "quality", name: "Δ full", unit: "points, 95 %", num: true, hint: "paired difference to the full cache", value: (r) => r.diff && r.diff[0], show: (r) => contrastCell(r) },
  { group: "quality", name: "p", unit: "Holm", num: true, hint: "sign-flip p, Holm-adjusted", value: (r) => r.p_holm, show: (r) => chance(r.p_holm) },
  { group: "quality", name: "detects", unit: "points", num: true, hint: "smallest true difference found with power 80 %", value: (r) => r.detectable, show: (r) => points(r.detectable) });
ROW_COLUMNS.push({
  group: "copy", name: "command", show: (r) => (r.command ? el("button", { type: "button", class: "copy", "aria-label": `Copy the command of ${r.press} on ${r.task}`, onclick: (e) => copy(r.command, e.target) }, "Copy") : NONE),
});
const rowGroups = { setting: true, quality: true, memory: true, speed: true, provenance: false };

function drawRows() {
  const records = shownRows();
  const bad = records.filter((r) => r.status === "failed").length;
  byId("n-rows").textContent = `${whole(records.length)} of ${whole(rows.length)} rows${bad ? `, ${bad} failed` : ""}; ▸ opens everything a row says`;
  fill("groups", "Columns:", Object.keys(rowGroups).map((name) => el("button", {
    type: "button", "aria-pressed": String(rowGroups[name]), onclick: () => { rowGroups[name] = !rowGroups[name]; drawRows(); byId("groups").querySelectorAll("button")[Object.keys(rowGroups).indexOf(name)].focus(); },
  }, name)));
  // What is the same in every row shown is said once, above, instead of in a column.
  const same = ROW_COLUMNS.filter((c) => c.constant && records.length > 1 && uniq(records.map(c.value)).length === 1);
  byId("same").replaceChildren(...same.length ? [el("b", {}, "In all rows shown: "), same.map((c) => `${c.name} ${[c.show(records[0])].flat()[0]}`).join("; ")] : []);
  const columns = ROW_COLUMNS.filter((c) => !same.includes(c) && (!c.group || c.group === "copy" || rowGroups[c.group]))
    .map((c) => (c.group === "copy" ? { ...c, group: "" } : c));
  fill("rows", sortable({
    key: "rows", label: "Every run", columns, records, tall: true, limit: 250, rowClass: (r) => (r.superseded ? "superseded" : null),
    detail: (r) => [["error", r.error], ["asked", r.method], ["press", r.press], ["resolved", r.press_spec], ["compression fired", firing(r)], ["paired with", r.reference],
      ["raw p", has(r.p) ? chance(r.p) : ""], ["bytes by kind", r.kinds], ["peak of", r.peak_kind], ["versions", r.versions], ["device", [r.device, r.dtype, r.threads && `${r.threads} threads`].filter(Boolean).join(", ")],
      ["commit", r.commit], ["started", r.started], ["suite", r.suite], ["file", r.path], ["command", r.command]],
  }));
}

function drawFailed() {
  const records = rows.filter((r) => r.status === "failed");
  if (!records.length) return fill("failed", el("p", { class: "soft" }, "None."));
  fill("failed", region("Failed cells", false, el("table", {},
    el("thead", {}, el("tr", {}, ["press", "model", "task", "mode", "length", "error"].map((n, i) => el("th", { scope: "col", class: n === "length" ? "num" : i ? null : "corner" }, n)))),
    el("tbody", {}, records.map((r) => el("tr", {}, el("th", { scope: "row" }, pressCell({ ...r, press: r.method })), [r.model, r.task, r.mode].map((v) => el("td", {}, v)),
      el("td", { class: "num" }, whole(r.length)), el("td", {}, el("code", { class: "bad" }, r.error || "no message"))))))));
}

function drawGates() {
  const bad = data.gates.filter((g) => g.verdict === "fail");
  const box = byId("gates");
  box.querySelector("summary").replaceChildren(
    el("b", { class: bad.length ? "bad" : "good" }, bad.length ? "✗ " : "✓ ", `Sanity gates: ${data.tally}`),
    bad.length ? `; failing: ${bad.map((g) => g.name).join("; ")}` : "", el("span", { class: "soft" }, "  (computed from the rows)"));
  box.open = bad.length > 0;
  const words = { pass: "✓ pass", fail: "✗ fail", "not checked": "– not checked" };
  box.append(region("Sanity gates", false, el("table", {},
    el("thead", {}, el("tr", {}, ["verdict", "gate", "checked", "failures"].map((n, i) => el("th", { scope: "col", class: i > 1 ? "num" : null }, n)))),
    el("tbody", {}, data.gates.map((g) => el("tr", {}, el("td", { class: g.verdict === "fail" ? "bad" : g.verdict === "pass" ? "good" : "soft" }, words[g.verdict]),
      el("td", {}, el("b", {}, g.name), `: ${g.claim}`, g.note && ` (${g.note})`,
        g.failures.length > 0 && el("ul", {}, g.failures.slice(0, 12).map((f) => el("li", {}, f)), g.failures.length > 12 && el("li", {}, `${g.failures.length - 12} more`))),
      el("td", { class: "num" }, whole(g.checked)), el("td", { class: "num" }, whole(g.failures.length))))))));
}
