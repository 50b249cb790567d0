"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const steps = data.steps, count = steps.length, $ = id => document.getElementById(id);
let at = 0, timer = null;   // 0 to count - 1 forward, then the same number backward

const isBack = () => at >= count;
const current = () => isBack() ? 2 * count - 1 - at : at;
const blockOf = [];
data.blocks.forEach((block, b) => block.cells.forEach(cell => blockOf[cell.step] = b));

// ---------------------------------------------------------------- words
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
function number(x, digits = 4) {
  if (typeof x !== "number" || !Number.isFinite(x)) return String(x ?? "");
  if (x === 0) return "0";
  const size = Math.abs(x);
  const text = size >= 1e-3 && size < 1e5 ? String(+x.toPrecision(digits)) : x.toExponential(digits > 4 ? digits - 1 : 2);
  return text.replace("e+", "e").replaceAll("-", "−");
}
const exact = x => number(x, 7);   // all digits of float32
const shape = s => s.length ? s.join(" × ") : "one number";
const percent = p => typeof p === "number" ? (100 * p).toFixed(1) + " %" : p;

// ---------------------------------------------------------------- names
const names = steps.map(({op, module}) => op === "input" ? "image" : module ? `${module} (${op})` : op);
function nameOf(i) {   // unique
  const same = names.slice(0, i).filter(name => name === names[i]).length;
  return same ? `${names[i]} ${same + 1}` : names[i];
}
function labelOf(i) {   // short name, within its block
  const {op, module} = steps[i], block = data.blocks[blockOf[i]];
  if (op === "input") return "image";
  if (op === "add") return "+";
  const own = block.path && module.startsWith(block.path) ? module.slice(block.path.length + 1) : module;
  return own || op;
}
