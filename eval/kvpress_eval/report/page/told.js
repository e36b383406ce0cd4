// The answers of a row: a script beside the page, loaded when somebody opens them. Everything in it is shown as text.

const loading = {};
function loadAnswers(name) {
  return loading[name] ||= new Promise((resolve, reject) => {
    const script = el("script", { src: `answers/${name}.js`, onload: resolve, onerror: () => reject(new Error(`answers/${name}.js is not beside this page`)) });
    document.head.append(script);
  }).then(() => unpackAnswers(window.kvpressAnswers?.[name])).catch((error) => { delete loading[name]; throw error; });
}
async function unpackAnswers(packed) {
  if (typeof packed !== "string") throw new Error("the file holds no answers");
  if (!window.DecompressionStream) throw new Error("this browser cannot unpack them: use a newer one, or kvpress answers");
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const [header, ...questions] = text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  return { header, questions };
}

const answersButton = (r) => el("button", { type: "button", class: "copy", "aria-haspopup": "dialog", "aria-label": `Read the answers of ${r.press} on ${r.task}`, onclick: () => openAnswers(r) }, "Read");
const QUESTIONS = 50; // at first: a dialog with thousands of questions would be slow

// The full cache's row of the same sessions, where its answers are here too.
const fullOf = (r) => (r.reference && rows.find((o) => o.run_id === r.reference && o.answers && o !== r && o.twin === r.twin)) || null;
const right = (q) => has(q.score) && q.score >= 1;
const shownText = (v) => (has(v) ? (Array.isArray(v) ? v.map(shownText).join(", ") : typeof v === "object" ? JSON.stringify(v) : String(v)) : "");
const number = (v) => (typeof v === "number" && Number.isFinite(v) ? v : null);
const spans = (v) => (Array.isArray(v) ? v.slice(0, 3).map(([a, b]) => `${shownText(a)}–${shownText(number(b) === null ? b : b - 1)}`).join(", ") + (v.length > 3 ? ` and ${v.length - 3} more` : "") : "");

function openAnswers(r) {
  const box = el("dialog", { id: "answers", "aria-labelledby": "t-answers" });
  const list = el("div", { class: "told" }, el("p", { class: "soft" }, "Loading …"));
  const full = fullOf(r);
  const view = { wrong: false, beside: Boolean(full), all: false };
  const bar = el("div", { class: "bar" });
  box.append(
    el("form", { method: "dialog", class: "close" }, el("button", { class: "copy", "aria-label": "Close the answers" }, "Close")),
    el("h2", { id: "t-answers" }, pressText(r.press)), el("p", { class: "soft" }, [r.model, r.task, r.mode, r.length ? `${whole(r.length)} tokens` : "", r.run_id].filter(Boolean).join(", ")), bar, list);
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  Promise.all([loadAnswers(r.answers), full ? loadAnswers(full.answers).catch((error) => ({ error })) : null]).then(([mine, other]) => {
    if (other && other.error) { view.beside = false; bar.append(el("span", {}, `Full cache: ${other.error.message}.`)); }
    const theirs = other && !other.error ? new Map(other.questions.map((q) => [`${q.session} ${q.turn}`, q])) : null;
    if (mine.header.cut) box.insertBefore(el("p", { class: "bad" }, `Only ${shownText(mine.header.cut)}.`), bar);
    const show = () => {
      const wanted = mine.questions.filter((q) => !view.wrong || !right(q));
      const shown = view.all ? wanted : wanted.slice(0, QUESTIONS);
      list.replaceChildren(...shown.map((q) => question(q, view.beside && theirs ? theirs.get(`${q.session} ${q.turn}`) || {} : null)),
        ...(wanted.length ? [] : [el("p", { class: "soft" }, "No such answers.")]),
        ...(shown.length < wanted.length ? [el("button", { type: "button", class: "more", onclick: () => { view.all = true; show(); } }, `Show all ${whole(wanted.length)} questions`)] : []));
    };
    const toggle = (key, name) => {
      const button = el("button", { type: "button", "aria-pressed": String(view[key]), onclick: () => { view[key] = !view[key]; button.setAttribute("aria-pressed", String(view[key])); show(); } }, name);
      return button;
    };
    const wrong = mine.questions.filter((q) => !right(q)).length;
    bar.prepend(`${count(mine.questions.length, "question")}, ${whole(wrong)} not wholly right`, toggle("wrong", "Only those"), ...(theirs ? [toggle("beside", "Beside the full cache")] : []));
    show();
  }).catch((error) => list.replaceChildren(el("p", { class: "bad" }, `The answers cannot be shown: ${error.message}.`)));
}

function question(q, other) {
  const said = (one) => el("div", {}, el("div", { class: `said ${right(one) ? "good" : "bad"}` }, shownText(one.answer) || "(empty)", one.finish === "length" && el("span", { class: "ci" }, " cut by the limit")), el("div", { class: "ci" }, facts(one)));
  const pair = (name, content) => [el("dt", {}, name), el("dd", {}, content)];
  return el("section", {}, el("h3", {}, `${shownText(q.session)} turn ${shownText(q.turn)}${q.task ? `, ${shownText(q.task)}` : ""}`), el("dl", {},
    pair("prompt", el("span", { class: "soft" }, shownText(q.prompt))), pair("gold", shownText(q.gold)), has(q.expected) && pair("expected", shownText(q.expected)),
    pair("answer", said(q)), other && pair("full cache", has(other.answer) ? said(other) : "not asked")));
}
function facts(q) {
  const parts = [`score ${points(number(q.score))}`];
  if (number(q.reference) !== null) parts.push(`released scorer ${points(q.reference)}`);
  if (number(q.gold_logprob) !== null) parts.push(`gold log p ${fixed(q.gold_logprob, 3)}${q.gold_argmax ? " (argmax)" : ""}`);
  if (number(q.kept) !== null) parts.push(`evidence ${percent(q.kept)} kept, at depth ${fixed(number(q.depth), 0)} % (tokens ${spans(q.evidence)})`);
  return parts.join(", ");
}
