// Forced texts: KL to the full cache and change of NLL, as Python wrote them.

const isForced = (c) => data.tables[c.facet].mode === "continuation";

function drawForced() {
  byId("s-forced").hidden = !data.forced.length;
  if (!data.forced.length) return;
  const shown = new Set(shownCells().map((c) => cells.indexOf(c)));
  const found = data.forced.filter((f) => f.task === state.task)
    .map((f) => ({ ...f, lines: f.lines.filter((line) => shown.has(line.cell)) })).filter((f) => f.lines.length);
  byId("n-forced").textContent = `${state.task || "macro mean over texts"}; nats a token, 95 % intervals in brackets, lower is better; KL by distance from the cut, in tokens${found.some((f) => f.lines.some((line) => !line.complete)) ? "; † some texts are missing: does not compare" : ""}`;
  if (!found.length) return nothing("forced");
  fill("forced", found.map((f) => {
    const records = f.lines.map((line) => ({ ...cells[line.cell], ...line, agreed: cells[line.cell].score }));
    const add = (name, value, show, unit) => ({ name, unit, num: true, group: "all forced tokens", value, show });
    const columns = [
      { name: "press", value: (r) => r.press, show: (r) => pressCell(r, r.origin && el("span", { class: "ci" }, r.origin), !r.complete && el("span", { title: "some texts are missing: this mean does not compare with the others" }, "†")) },
      add("bytes/dense", (r) => r.bytes_ratio, (r) => [has(r.bytes_ratio) ? percent(r.bytes_ratio) : "not measured", r.solved && el("span", { class: "ci" }, r.solved)]),
      add("KL", (r) => r.kl[0], (r) => withRange(r.kl[1], r.kl[2]), "95 %"),
      add("Δ NLL", (r) => r.nll && r.nll[0], (r) => (r.nll ? withRange(r.nll[1], r.nll[2]) : NONE), "95 %"),
      add("passages", (r) => r.sessions, (r) => whole(r.sessions)),
      add("equal tokens", (r) => r.agreed[0], (r) => withRange(percent(r.agreed[0]), range(r.agreed, points)), "95 %"),
      ...f.bins.map((b, i) => ({ ...add(b, (r) => r.bins[i][0], (r) => r.bins[i][1]), group: "KL by distance" })),
    ];
    return el("div", {}, el("h3", {}, f.tables.map(facetTitle)[0]), sortable({ key: `forced${f.tables}`, label: "Forced text", columns, records, rowClass: (r) => (r.control ? "control" : null) }));
  }));
}
