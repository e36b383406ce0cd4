"use strict";
// Elements and tooltips. Text reaches a page only through text nodes and attributes, never as markup.

const byId = (id) => document.getElementById(id);
const uniq = (values) => [...new Set(values)];
const has = (v) => v !== null && v !== undefined;

function build(namespace, tag, attributes, children) {
  const node = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "width" && tag === "table") { node.style.minWidth = value; continue; }
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "background") node.style.background = value;
    else if (value === true) node.setAttribute(name, "");
    else if (has(value) && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(3).filter((c) => has(c) && c !== false && c !== ""));
  return node;
}
const el = (tag, attributes, ...children) => build(null, tag, attributes, children);
const svg = (tag, attributes, ...children) => build("http://www.w3.org/2000/svg", tag, attributes, children);
const fill = (id, ...children) => byId(id).replaceChildren(...children.flat(3).filter((c) => has(c) && c !== false));

function showTip(event, lines) {
  const tip = byId("tip");
  tip.replaceChildren(...lines.filter(Boolean).map((line, i) => el("div", { class: i ? "" : "press" }, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${event.clientY + height + 22 > innerHeight ? event.clientY - height - 12 : event.clientY + 14}px`;
}
const hideTip = () => { byId("tip").hidden = true; };
// lines(event): what to say where the pointer is; the first is a press or the like.
const tipped = (node, lines) => {
  node.addEventListener("pointermove", (event) => showTip(event, lines(event)));
  node.addEventListener("pointerleave", hideTip);
  return node;
};
