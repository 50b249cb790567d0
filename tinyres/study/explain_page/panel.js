// ---------------------------------------------------------------- the panel for one step
function goTo(i, norm) {
  const link = make("button", {class: "link grow"}, nameOf(i));
  link.addEventListener("click", () => select(i));
  return make("li", {}, link, norm === undefined ? "" : make("span", {class: "n"}, `norm ${number(norm)}`));
}
const viewOf = (i, word, shown = steps[i][word]) =>
  ({key: `${i}`, word, what: `${word === "value" ? "Value" : "Gradient of the loss"} of ${nameOf(i)}`, shape: steps[i].shape, weight: false, shown});

function panel(i, back) {
  const focus = $("panel").contains(document.activeElement) ? document.activeElement.dataset.focus ?? "title" : null;
  const step = steps[i];
  watchers = [];
  const parts = [heading(i), ...pictures(i, back), ...(back ? received(i) : summands(i)), ...formulas(i, back), ...loss(i, back),
    ...given(i, back), ...statistics(step, back), ...source(step, back), foot()];
  $("panel").replaceChildren(...parts.flat());
  $("panel").scrollTop = 0;
  if (focus) ([...$("panel").querySelectorAll("[data-focus]")].find(e => e.dataset.focus === focus) ?? $("panel").firstChild).focus();
}
function heading(i) {
  const {op, module, shape: size, dtype} = steps[i];
  const title = op === "add" ? `${module} +`.trim() : labelOf(i) === op ? nameOf(i) : module || "image";
  return [make("h2", {tabindex: -1, "data-focus": "title"}, title), make("p", {class: "what"}, `${op}, ${shape(size)}, ${dtype}`)];
}
function pictures(i, back) {
  const {value: {picture: {width, height}}} = steps[i], views = [viewOf(i, "value"), ...(back ? [viewOf(i, "gradient")] : [])];
  const later = make("div", {class: "wait", style: `aspect-ratio: ${Math.min(width / height, 4)}`}, "known in the backward pass");
  return [make("div", {class: "pictures"},
    make("div", {}, make("h3", {class: "f"}, "Value"), figure(views[0])),
    make("div", {}, make("h3", {class: "b"}, "Gradient of the loss"), back ? figure(views[1]) : later)), readout(...views)];
}
function formulas(i, back) {
  const step = steps[i];
  if (!step.formula) return [make("p", {class: "note"}, "An operation of your own: its pullback, below, is the formula of its gradient.")];
  const lines = (key, live) => {
    const box = make("div", {class: `formulas ${live ? "live" : ""}`});
    for (const line of step.formula[key]) { const row = make("div"); row.innerHTML = line; box.append(row); }
    return box;
  };
  const {forward, backward, where} = step.formula;
  return [
    ...(forward.length ? [make("h3", {}, "What it computes"), lines("forward", !back)] : []),
    ...(back ? [] : workedOut(i, viewOf(i, "value"))),
    ...(backward.length ? [make("h3", {}, "The gradients of its inputs"), lines("backward", back)] : []),
    ...(where ? [make("p", {class: "note"}, where)] : []),
    ...(step.fused ? [make("p", {class: "note"}, "The engine computes batch norm, + and ReLU at the end of a block in one pass. " +
      "Here they are steps of their own, with the same numbers.")] : [])];
}
function summands(i) {   // the terms of an addition, forward
  const {op, inputs, shape: size} = steps[i];
  if (op !== "add" || inputs.some(({step}) => step === null || `${steps[step].shape}` !== `${size}`)) return [];
  const views = inputs.map(({step}) => ({...viewOf(step, "value"), key: `${i}`, word: nameOf(step)}));
  return [make("h3", {}, "What it adds"), ...sumOf([...views, {...viewOf(i, "value"), word: "the sum"}], "value")];
}
function received(i) {
  const {received, fork, gradient} = steps[i];
  if (!received.length) return [];
  const list = make("ul", {class: "list", id: "received"}, ...received.map(({by, norm}) => goTo(by, norm)));
  if (received.length === 1) return [make("h3", {}, "Its gradient comes from"), list];
  const words = [...received.map(({by}) => `from ${nameOf(by)}`), "the sum"];
  const views = (fork ?? []).map((shown, k) => ({...viewOf(i, "gradient", shown), word: words[k]}));
  for (const view of views) view.what += `, ${view.word}`;
  return [make("h3", {}, `Its gradient is a sum of ${received.length}, from`), list, ...(fork ? sumOf(views, "gradient") : []),
    make("p", {class: "note"}, `A value that is used twice gets both gradients. Norm of the sum: ${number(gradient.statistics.norm)}.`)];
}
function loss(i, back) {
  if (i !== count - 1) return [];
  const likeliest = data.likeliest.map(({name, probability}) =>
    make("li", {}, make("span", {class: "grow"}, name), make("span", {class: "n"}, percent(probability))));
  return [...(back ? [make("p", {class: "note"}, "The loss itself: backward begins here, with dL/dL = 1.")] : []),
    make("h3", {}, "Most likely classes"), make("ul", {class: "list"}, ...likeliest)];
}
function given(i, back) {   // the steps of its inputs, and its parameters themselves
  const {inputs} = steps[i];
  if (!inputs.length) return [];
  const items = inputs.map((given, k) => {
    if (given.step !== null) return back && given.norm === null ? goTo(given.step) : goTo(given.step, back ? given.norm : undefined);
    const name = given.name || "a constant", both = back && given.gradient;
    const views = [["value", given.value], ...(both ? [["gradient", given.gradient]] : [])].map(([word, shown]) =>
      ({key: `${i}/${k}`, word, what: `${word === "value" ? "Value" : "Gradient of the loss"} of ${name}`, shape: given.shape, weight: true, shown}));
    const size = back && given.norm !== null ? `norm ${number(given.norm)}` : given.shape.join(" × ");
    return make("li", {}, make("span", {class: "grow"}, name), make("span", {class: "n"}, size),
      make("div", {class: "parameter"}, ...views.map(figure)), readout(...views));
  });
  return [make("h3", {}, back ? "It gives gradients to" : "It takes"), make("ul", {class: "list", id: "inputs"}, ...items)];
}
function statistics(step, back) {
  const rows = {min: "smallest", max: "largest", mean: "mean", std: "standard deviation", zeros: "zeros", norm: "norm"};
  const kinds = back ? ["value", "gradient"] : ["value"];
  const cell = (kind, key) => {
    const value = step[kind].statistics[key];
    return make("td", {}, key === "zeros" && typeof value === "number" ? `${+(100 * value).toFixed(1)} %` : number(value));
  };
  return [make("h3", {}, "Statistics"), make("table", {id: "statistics"},
    make("tr", {}, make("th"), ...kinds.map(kind => make("th", {}, kind))),
    ...Object.entries(rows).map(([key, name]) => make("tr", {}, make("td", {}, name), ...kinds.map(kind => cell(kind, key)))))];
}
function source(step, back) {
  const titles = {model: "in the model", layer: "in the layer", computing: "computes the value", pullback: "computes the gradients"};
  const found = Object.entries(titles).filter(([key]) => step.source[key] && (key !== "pullback" || back));
  return [...(found.length ? [make("h3", {}, "Source")] : []), ...found.map(([key, title]) => {
    const {file, line, text, mark} = step.source[key], code = make("pre", {tabindex: 0, "aria-label": title}), letters = [...text];
    if (mark) code.append(letters.slice(0, mark[0]).join(""), make("mark", {}, letters.slice(...mark).join("")), letters.slice(mark[1]).join(""));
    else code.append(text || "cannot be read on this machine");
    return make("div", {class: `code ${key}`}, make("p", {}, `${title}: ${file}:${line}`), code);
  })];
}
function foot() {
  const keys = make("p", {class: "keys"});
  keys.innerHTML = "<kbd>←</kbd> <kbd>→</kbd> step, <kbd>Home</kbd> <kbd>End</kbd> first and last, <kbd>space</kbd> play, " +
    "<kbd>t</kbd> the same node in the other pass; " +
    "on a selected picture, <kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd> the next number";
  return [keys, make("p", {class: "keys"}, limit)];
}
