// Sortable tables and the heat map.

const region = (label, tall, table) => el("div", { class: `scroll${tall ? " tall" : ""}`, tabindex: "0", role: "region", "aria-label": label }, table);
// A press may wrap after a bracket, comma or bar, not inside a number.
const pressText = (press) => el("span", { class: "press" }, press.split(/(?<=[(,|])/).flatMap((part, i) => (i ? [el("wbr"), part] : [part])));
// Its mark selects it, and with it every amount of it, here and in the charts.
const marked = (family) => (family === "full" ? swatch(family) : el("button", {
  type: "button", class: "pick", "data-press": family, "aria-pressed": String(selected.has(family)), "aria-label": `Select ${short(family, 80)}`, title: "Select in the charts", onclick: () => pick(family),
}, swatch(family)));
const pressCell = (x, ...more) => el("div", { class: "head" }, marked(x.family), el("span", {}, pressText(x.press), ...more.map((m) => [" ", m])));
// The page and the paper of each method in a press.
const methodLinks = (family) => {
  const names = uniq(family.split("|").map((part) => part.trim().split("@")[0])).filter((name) => Object.hasOwn(data.papers, name));
  const link = (text, href) => el("a", { href, rel: "noreferrer" }, text);
  return names.flatMap((name) => [
    data.methods && link(names.length > 1 ? `${name}: method` : "method", `${data.methods}${name}.md`),
    data.papers[name] && link(names.length > 1 && !data.methods ? `${name}: paper` : "paper", `https://arxiv.org/abs/${data.papers[name]}`),
  ]).filter(Boolean).flatMap((a, i) => (i ? [", ", a] : [a]));
};
const contrastCell = (c) => (c.diff ? [signedPoints(c.diff[0]), el("span", { class: "star" }, star(c)), el("span", { class: "ci" }, differenceRange(c))] : NONE);
const shiftCell = (m, c) => (m.diff(c) ? [m.shift(m.diff(c)[0]), el("span", { class: "ci" }, range(m.diff(c), m.shift))] : NONE);
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
      detail(record).filter(([, text]) => has(text) && text !== "" && text.length !== 0).map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])))));
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

const VERDICTS = ["worse", "not shown", "not worse"];
const verdictCell = (c) => (c.verdict ? el("span", { class: { "not worse": "good", worse: "bad" }[c.verdict] || "soft" }, c.verdict) : NONE);

function drawMethods() {
  const group = shownCells();
  const facets = facetsOf(group);
  byId("n-methods").textContent = `${state.task || "macro mean over tasks"}; ◆ Pareto front (of bytes, of time); * p < 0.05 (Holm); 95 % intervals in brackets${group.some((c) => c.disturbed && has(c.tpot_s)) ? "; ‡ disturbed by other programs" : ""}${group.some((c) => c.tasks < c.of) ? "; † not all tasks" : ""}`;
  if (!facets.length) return nothing("methods");
  const unclear = ambiguous(group);
  const name = (c) => `${c.press}\n${unclear(c) ? firing(c) : ""}`;
  const methods = uniq(group.map(name)).map((id) => {
    const mine = group.filter((c) => name(c) === id);
    return { ...mine[0], note: id.split("\n").pop(), at: Object.fromEntries(mine.map((c) => [c.facet, c])) };
  });
  const ratio = (m) => Math.max(...Object.values(m.at).map((c) => c.bytes_ratio ?? 0));
  methods.sort((a, b) => (b.press === "full") - (a.press === "full") || ratio(b) - ratio(a));
  const columns = [{ name: "press", value: (m) => m.press, show: (m) => pressCell(m, m.note && el("span", { class: "ci" }, m.note), el("span", { class: "ci links" }, methodLinks(m.family))) }];
  for (const facet of facets) {
    const add = (name, unit, value, show, hint) => columns.push({
      name, unit, hint, num: true, group: facetTitle(facet),
      value: (m) => (m.at[facet] ? value(m.at[facet]) : null), show: (m) => (m.at[facet] ? show(m.at[facet]) : NONE),
    });
    add("bytes/dense", "", (c) => c.bytes_ratio, (c) => [c.front ? el("span", { title: "on the Pareto front" }, "◆ ") : "", has(c.bytes_ratio) ? percent(c.bytes_ratio) : "not measured", c.solved && el("span", { class: "ci" }, c.solved)]);
    add("score", "points", (c) => c.score[0], (c) => (c.tasks < c.of ? [points(c.score[0]), el("span", { title: `${c.tasks} of ${c.of} tasks` }, "†")] : points(c.score[0])));
    add("Δ full", "points, 95 %", (c) => c.diff && c.diff[0], (c) => contrastCell(c), "paired difference to the full cache");
    add("verdict", "margin 2", (c) => VERDICTS.indexOf(c.verdict) + 1 || null, verdictCell, "not worse than the full cache by 2 points: shown, shown to be worse, or not shown");
    add("detects", "points", (c) => c.detectable, (c) => points(c.detectable), "smallest true difference found with power 80 %");
    add("retained", "of full", (c) => c.retention, (c) => percent(c.retention), "score / score of the full cache, where that is at least 20");
    if (group.some((c) => c.facet === facet && c.flips)) add("flips", "lost won", (c) => c.flips && -c.flips[0], flips, "answers right with the full cache and wrong now, and the reverse");
    for (const m of MEASURES.filter((m) => group.some((c) => c.facet === facet && has(m.mean(c))))) {
      add(m.title, "mean", (c) => m.mean(c), (c) => m.show(m.mean(c)), m.about);
      add(`Δ ${m.title}`, "95 %", (c) => m.diff(c) && m.diff(c)[0], (c) => shiftCell(m, c), `${m.about}: paired difference to the full cache`);
    }
    if (data.tables[facet].mode === "multi-turn") { // there the order of questions means nothing
      add("first", "turn", (c) => c.first, (c) => points(c.first));
      add("later", "turns", (c) => c.later, (c) => (laterTasks(c) ? el("span", { title: laterTasks(c).trim() }, points(c.later)) : points(c.later)));
    }
    add("time", "ms/token", (c) => c.tpot_s, (c) => [c.fast_front ? el("span", { title: "on the Pareto front of quality against time" }, "◆ ") : "", time(millis(c.tpot_s), c.disturbed)]);
    if (group.some((c) => c.facet === facet && has(c.session_bytes))) add("batch", `in ${about(state.memory)} GiB`, batches, (c) => whole(batches(c)), "sessions whose caches fit the memory chosen above");
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
    const tasks = uniq(here.map((c) => c.task)).sort().flatMap((task) => [
      { task, name: task }, ...uniq(here.filter((c) => c.task === task).flatMap((c) => Object.keys(c.subtasks))).sort().map((sub) => ({ task, sub, name: `${task}: ${sub}` }))]);
    const unclear = ambiguous(cells.filter((c) => c.facet === facet && c.task === ""));
    const methods = cells.filter((c) => c.facet === facet && c.task === "" && here.some((o) => o.press === c.press));
    const table = el("table", { class: "heat", width: `${(innerWidth > 760 ? 215 : 136) + 66 * tasks.length}px` }, el("caption", {}, facetTitle(facet)),
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "corner" }, "press"), tasks.map((t) => el("th", { scope: "col", class: t.sub ? "sub" : null }, t.name.split(/(?<=[_:])/).flatMap((part, i) => (i ? [el("wbr"), part] : [part])))))),
      el("tbody", {}, methods.map((m) => el("tr", {},
        el("th", { scope: "row" }, pressCell(m, unclear(m) && el("span", { class: "ci" }, firing(m)))),
        tasks.map(({ task, sub }) => heatCell(here.find((c) => c.task === task && c.press === m.press && firing(c) === firing(m)),
          rows.some((r) => r.facet === facet && r.task === task && r.method === m.press && r.status === "failed"), sub))))));
    return region(`Task by task, ${facetTitle(facet)}`, false, table);
  })));
}

function heatCell(c, failed, sub) {
  if (!c) return el("td", { class: failed ? "bad" : "soft" }, failed ? "failed" : "not run");
  if (sub) return el("td", { class: "sub" }, el("b", {}, points(c.subtasks[sub])), el("span", {}, "sub-task"));
  const d = c.diff ? c.diff[0] : 0;
  const tint = Math.min(0.62, Math.abs(d) * 0.9);
  return el("td", { background: d ? `rgba(var(--${d < 0 ? "loss" : "gain"}), ${tint.toFixed(3)})` : null, title: cellTip(c).filter(Boolean).join("\n") },
    el("b", {}, points(c.score[0])), el("span", {}, c.diff ? difference(c) : c.press === "full" ? "full" : "not paired"));
}
