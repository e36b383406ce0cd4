// What a press kept of one prompt: strips by layer (heads on demand), the prompt itself, the evidence.

const data = JSON.parse(byId("data").textContent);
const n = data.tokens.length;
const bits = (text) => { const raw = atob(text); return (i) => (raw.charCodeAt(i >> 3) >> (7 - (i & 7))) & 1; };
const layers = data.layers.map(({ layer, heads }) => ({ layer, heads: heads.map(bits) }));
const all = layers.flatMap((l) => l.heads);
const share = (heads) => (i) => heads.reduce((sum, head) => sum + head(i), 0) / heads.length;
const count = (head) => { let sum = 0; for (let i = 0; i < n; i++) sum += head(i); return sum; };
const percent = (v) => `${(100 * v).toFixed(1)} %`;
const tint = (v) => `rgba(var(--gain), ${(0.75 * v).toFixed(3)})`;
const evidenceOf = (i) => (data.evidence || []).filter((e) => i >= e.start && i < e.end).map((e) => e.turn);
const words = (from, to) => data.tokens.slice(from, to).join(from === 0 || data.tokens[from].startsWith(" ") ? "" : " ").trim();

// Equal neighbours are drawn as one, so that no seams show.
function runs(bins, value, draw) {
  for (let from = 0, b = 1; b <= bins; b++) {
    if (b < bins && value(b) === value(from)) continue;
    if (value(from) > 0) draw(from, b - from, value(from));
    from = b;
  }
}

// A strip of the whole prompt: at most 600 bins, each the mean over its tokens.
function strip(value, label) {
  const bins = Math.min(n, 600), at = (b) => Math.floor((b * n) / bins);
  const root = svg("svg", { viewBox: `0 0 ${bins} 16`, preserveAspectRatio: "none", role: "img", "aria-label": label }, svg("rect", { class: "back", width: bins, height: 13 }));
  const mean = (b) => { let sum = 0; for (let i = at(b); i < at(b + 1); i++) sum += value(i); return sum / (at(b + 1) - at(b)); };
  const known = (b) => { for (let i = at(b); i < at(b + 1); i++) if (evidenceOf(i).length) return 1; return 0; };
  runs(bins, mean, (x, width, v) => root.append(svg("rect", { class: "cell", x, width, height: 13, "fill-opacity": v.toFixed(3) })));
  runs(bins, known, (x, width) => root.append(svg("rect", { class: "at", x, width, y: 14, height: 2 })));
  return tipped(root, (event) => {
    const { left, width } = root.getBoundingClientRect();
    const i = Math.max(0, Math.min(n - 1, Math.floor(((event.clientX - left) / width) * n)));
    const turns = evidenceOf(i);
    return [words(Math.max(0, i - 3), i + 4), `token ${i}: ${percent(value(i))} of these heads`, turns.length && `evidence of question ${turns.join(", ")}`];
  });
}

function layerRow({ layer, heads }) {
  const counts = heads.map(count), value = share(heads);
  const mean = counts.reduce((a, b) => a + b, 0) / heads.length;
  const button = el("button", { type: "button", class: "expand", "aria-expanded": "false", "aria-label": `Heads of layer ${layer}` }, "▸");
  const row = el("tr", {}, el("th", { scope: "row" }, el("div", { class: "head" }, button, `layer ${layer}`)),
    el("td", { class: "num" }, mean.toFixed(1)), el("td", { class: "num" }, percent(mean / n)), el("td", { class: "num" }, `${Math.min(...counts)} to ${Math.max(...counts)}`),
    el("td", { class: "strip" }, strip(value, `Layer ${layer}: ${percent(mean / n)} kept`)));
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    button.textContent = open ? "▸" : "▾";
    if (open) { heads.forEach(() => row.nextSibling.remove()); return; }
    row.after(...heads.map((head, h) => el("tr", { class: "head-row" }, el("th", { scope: "row" }, `head ${h}`), el("td", { class: "num" }, String(counts[h])),
      el("td", { class: "num" }, percent(counts[h] / n)), el("td", {}), el("td", { class: "strip" }, strip(head, `Layer ${layer}, head ${h}`)))));
  });
  return row;
}

function drawLayers() {
  fill("layers", el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ["layer", "kept", "of all", "per head", "where in the prompt"].map((name, i) => el("th", { scope: "col", class: i && i < 4 ? "num" : null }, name)))),
    el("tbody", {}, layers.map(layerRow)))));
}

let chosen = null;
function drawPrompt() {
  const heads = chosen === null ? all : layers[chosen].heads, value = share(heads);
  byId("n-prompt").textContent = "stronger colour: more of the heads hold the token; underlined: evidence; dashed: the question that the press saw";
  const names = ["all layers", ...layers.map((l) => `layer ${l.layer}`)];
  fill("choose", names.map((name, i) => el("button", { type: "button", "aria-pressed": String((chosen ?? -1) === i - 1),
    onclick: () => { chosen = i ? i - 1 : null; drawPrompt(); byId("choose").querySelectorAll("button")[i].focus(); } }, name)));
  const spaced = data.tokens.some((t) => /\s/.test(t)); // tokens of words have no white space of their own
  fill("prompt", data.tokens.flatMap((token, i) => {
    const turns = evidenceOf(i);
    const node = el("span", { background: tint(value(i)), class: [turns.length && "evidence", i >= data.context && "question"].filter(Boolean).join(" ") || null }, token || "∅");
    return [tipped(node, () => [token, `token ${i}: ${percent(value(i))} of ${chosen === null ? "all heads" : `the heads of layer ${layers[chosen].layer}`}`,
      turns.length && `evidence of question ${turns.join(", ")}`]), ...(spaced ? [] : [" "])];
  }));
}

function drawEvidence() {
  const known = data.evidence;
  byId("s-evidence").hidden = !known || !known.length;
  if (!known || !known.length) return;
  fill("evidence", el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ["question", "tokens", "kept", "heads with all of it"].map((name, i) => el("th", { scope: "col", class: i > 1 ? "num" : null }, name)))),
    el("tbody", {}, known.map((e) => el("tr", {}, el("td", {}, String(e.turn)), el("td", { class: "cut" }, words(e.start, e.end)),
      el("td", { class: `num ${e.share >= 1 ? "good" : e.share === 0 ? "bad" : ""}` }, percent(e.share)), el("td", { class: "num" }, `${e.whole_heads} of ${all.length}`)))))));
}

const mean = all.reduce((sum, head) => sum + count(head), 0) / (all.length * n);
byId("title").append("What ", el("span", { class: "press" }, data.press), " keeps of a prompt");
byId("about").textContent = `${data.model}: ${data.prompt}. ${n} tokens, ${percent(mean)} kept on average over ${layers.length} layers with ${layers[0].heads.length} KV heads; ${percent(data.bytes_ratio)} of the dense bytes.`;
byId("note").textContent = [!data.evicts && "This press only changes how tokens are stored: every token is kept.",
  data.others > 0 && `${data.others} layers are not under the press and not shown.`, !data.evidence && "Where the evidence stands is not known for this prompt."].filter(Boolean).join(" ");
drawEvidence();
drawLayers();
drawPrompt();
