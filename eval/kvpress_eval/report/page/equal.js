// Presses solved for the same bytes: a matrix per table, a line per press as asked, a column per amount.

function drawEqual() {
  byId("s-equal").hidden = !data.equal.length;
  if (!data.equal.length) return;
  const searching = words().length > 0;
  const hit = new Set(shownRows().filter((r) => r.target).map((r) => `${r.facet} ${r.asked}`));
  const found = data.equal.filter((m) => m.task === state.task && inFacet(data.tables[m.table]))
    .map((m) => ({ ...m, lines: m.lines.filter((line) => !searching || hit.has(`${m.table} ${line.press}`)) }))
    .filter((m) => m.lines.length);
  byId("n-equal").textContent = `${state.task || "macro mean over tasks"}; each press solved for the bytes at the top; best of a column bold; under it the difference to the full cache, points, 95 %; – not reached or failed`;
  if (!found.length) return nothing("equal");
  fill("equal", found.map((m) => el("div", { class: "equal" }, region(`Equal bytes, ${facetTitle(m.table)}`, false, equalTable(m)), equalNotes(m))));
}

function equalTable(m) {
  const full = has(m.full) && cells[m.full];
  return el("table", {},
    el("caption", {}, facetTitle(m.table), full && (isForced(full) ? "; KL to the full cache, lower is better" : `; full cache ${points(full.score[0])} ${range(full.score, points)}`)),
    el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "corner" }, "press"), m.targets.map((t) => el("th", { scope: "col", class: "num" }, t)))),
    el("tbody", {}, m.lines.map((line) => el("tr", {},
      el("th", { scope: "row" }, pressCell(line, line.firing && el("span", { class: "ci" }, line.firing))), line.entries.map(equalCell)))));
}

function equalCell(e) {
  if (!has(e.cell)) return el("td", { class: `num ${e.reason ? "bad" : "soft"}`, title: e.reason || null }, e.reason ? NONE : "not run");
  const c = cells[e.cell];
  const partial = c.tasks < c.of && [el("span", { title: `${c.tasks} of ${c.of} tasks: ${e.reason}` }, "†")];
  return el("td", { class: "num", title: cellTip(c).filter(Boolean).join("\n") },
    el(e.best ? "b" : "span", {}, e.text), partial, el("i", {}, c.diff ? [difference(c), " ", differenceRange(c)] : "not paired"));
}

// What could not be reached is said in words, not only where the pointer rests.
function equalNotes(m) {
  const notes = m.lines.flatMap((line) => line.entries.map((e, i) => e.reason && el("li", {}, el("code", {}, line.press), ` at ${m.targets[i]} ${e.reason}`))).filter(Boolean);
  return notes.length > 0 && el("ul", { class: "soft" }, notes);
}
