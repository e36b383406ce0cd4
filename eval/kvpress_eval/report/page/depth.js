// Depth x length, one small map for each press: where evidence is lost.

function drawDepths() {
  const placed = allLengths(shownRows).filter((r) => has(r.depth) && r.score && !r.superseded);
  const cell = (r) => `${r.facet} ${r.method} ${r.task}`, depthsOf = {};
  for (const r of placed) (depthsOf[cell(r)] ||= new Set()).add(r.depth);
  const group = placed.filter((r) => depthsOf[cell(r)].size > 1); // other tasks do not place their evidence
  byId("s-depths").hidden = !group.length;
  if (!group.length) return;
  byId("n-depths").textContent = `${state.task || "mean over tasks"}; score, stronger colour is higher; rows: where the evidence stands, in % of the context; columns: tokens`;
  const settings = uniq(group.map(settingOf));
  fill("depths", settings.map((setting) => {
    const here = group.filter((r) => settingOf(r) === setting);
    const depths = uniq(here.map((r) => r.depth)).sort((a, b) => a - b), lengths = uniq(here.map((r) => r.length)).sort((a, b) => a - b);
    const ratio = (method) => { const all = here.filter((r) => r.method === method).map((r) => r.bytes_ratio ?? 0); return all.reduce((a, b) => a + b, 0) / all.length; };
    const methods = uniq(here.map((r) => r.method)).sort((a, b) => (b === "full") - (a === "full") || ratio(b) - ratio(a));
    return [settings.length > 1 && el("h3", {}, settingTitle(here[0])),
      el("div", { class: "maps" }, methods.map((method) => depthMap(here.filter((r) => r.method === method), depths, lengths)))];
  }).flat().filter(Boolean));
}

// Mean over the tasks of what stands at one depth and length, every task counting the same.
function meanOf(group) {
  const means = uniq(group.map((r) => r.task)).map((task) => {
    const mine = group.filter((r) => r.task === task), n = mine.reduce((sum, r) => sum + r.sessions, 0);
    return mine.reduce((sum, r) => sum + r.score[0] * r.sessions, 0) / n;
  });
  return means.length ? means.reduce((a, b) => a + b, 0) / means.length : null;
}

function depthMap(mine, depths, lengths) {
  const name = mine[0].method;
  return region(`Score by depth and length, ${name}`, false, el("table", { class: "map" },
    el("caption", {}, pressCell({ press: name, family: mine[0].family })),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "depth"), lengths.map((l) => el("th", { scope: "col", class: "num" }, whole(l))))),
    el("tbody", {}, depths.map((d) => el("tr", {}, el("th", { scope: "row" }, `${d} %`), lengths.map((l) => {
      const at = mine.filter((r) => r.depth === d && r.length === l), v = meanOf(at);
      return el("td", { background: has(v) ? `rgba(var(--gain), ${(0.06 + 0.6 * v).toFixed(3)})` : null, title: has(v) ? `${name}: ${points(v)} at ${d} % of ${whole(l)} tokens` : null },
        has(v) ? points(v) : NONE);
    }))))));
}
