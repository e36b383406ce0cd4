"use strict";
// Elements. Text reaches a page only through text nodes and attributes, never as markup.

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
const fill = (id, ...children) => byId(id).replaceChildren(...children.flat().filter(has));
