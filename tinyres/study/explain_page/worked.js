// ---------------------------------------------------------------- a sum, as pictures and for one element
function sumOf(views, word) {   // the last view is the sum of the others
  const held = views.every(view => arrayOf(view.shown)), line = make("output", {class: "equation"});
  const row = make("div", {class: "sum"});
  views.forEach((view, k) => row.append(...(k ? [make("span", {class: "sign"}, k === views.length - 1 ? "=" : "+")] : []),
    make("div", {}, make("h4", {}, view.word), figure(view))));
  if (held) watch(views.at(-1), () => {
    const numbers = views.map(view => exact(elementOf(view)));
    const sum = numbers.slice(0, -1).join(" + ").replaceAll("+ −", "− ");
    line.textContent = `${word} [${indexOf(views.at(-1)).join(", ")}]: ${sum} = ${numbers.at(-1)}`;
  });
  return [row, ...(held ? [line] : [])];
}

// ---------------------------------------------------------------- one number of a convolution
const AT_ONCE = 3;   // input channels that are shown at first
function convolve(i, [o, row, column]) {   // the terms of y[o, row, column] by input channel, as in `ops.conv2d`
  const {inputs, convolution: {stride, padding, dilation, groups}} = steps[i];
  const [x, w] = inputs.map(valueOf), [outputs, channels, kh, kw] = inputs[1].shape;
  const [, , height, width] = shapeOf(inputs[0]), first = Math.floor(o / (outputs / groups)) * channels;
  return Array.from({length: channels}, (_, c) => Array.from({length: kh * kw}, (_, tap) => {
    const [k, l] = [Math.floor(tap / kw), tap % kw];
    const y = row * stride[0] + k * dilation[0] - padding[0], z = column * stride[1] + l * dilation[1] - padding[1];
    const inside = y >= 0 && z >= 0 && y < height && z < width;
    const a = inside ? x[((first + c) * height + y) * width + z] : 0, b = w[((o * channels + c) * kh + k) * kw + l];
    return {inside, window: a, filter: b, product: a * b};
  }));
}
const valueOf = given => arrayOf(given.step === null ? given.value : steps[given.step].value);
const shapeOf = given => given.step === null ? given.shape : steps[given.step].shape;
const add = numbers => numbers.reduce((sum, x) => sum + x, 0);

function workedOut(i, view) {
  const {inputs, convolution} = steps[i];
  if (!convolution || ![...inputs.slice(0, 2).map(valueOf), arrayOf(view.shown)].every(array => array)) return [];
  const box = make("div", {id: "worked"}), kw = inputs[1].shape[3];
  const cell = (tap, what) => make("td", {class: tap.inside || what === "filter" ? "" : "padding"}, number(tap[what], 3));
  const grid = (taps, what) => make("table", {class: "taps"}, make("caption", {}, what), ...Array.from({length: taps.length / kw},
    (_, k) => make("tr", {}, ...taps.slice(k * kw, k * kw + kw).map(tap => cell(tap, what)))));
  const sign = text => make("span", {class: "sign"}, text);
  const channel = (taps, c) => make("div", {class: "channel"}, make("h4", {}, `input channel ${c}`),
    grid(taps, "window"), make("div", {}, sign("×"), grid(taps, "filter")), make("div", {}, sign("="), grid(taps, "product")),
    make("span", {class: "subtotal"}, `sum ${number(add(taps.map(tap => tap.product)))}`));
  let open = false;
  watch(view, () => {
    const index = indexOf(view), terms = convolve(i, index), rest = terms.slice(AT_ONCE);
    const others = rest.length === 1 ? "the other input channel" : `the other ${rest.length} input channels`;
    const more = make("details", open ? {open: ""} : {}, make("summary", {}, others));
    const fill = () => {
      open = more.open;
      if (open && more.children.length === 1) more.append(...rest.map((taps, c) => channel(taps, c + AT_ONCE)));
    };
    more.addEventListener("toggle", fill);
    fill();
    box.replaceChildren(...terms.slice(0, AT_ONCE).map(channel), ...(rest.length ? [more] : []), total(i, index, terms, view));
  });
  return [make("h3", {}, "The chosen number, step by step"), box];
}
function total(i, index, terms, view) {
  const {inputs, convolution: {bias, relu}} = steps[i];
  const products = add(terms.map(taps => add(taps.map(tap => tap.product))));
  const more = inputs.slice(2).map((given, k) => bias && k === 0 ? ["the bias", valueOf(given)?.[index[0]]]
    : ["the shortcut", valueOf(given)?.[offset(view.shape.slice(1), index)]]);
  const sum = more.reduce((sum, [, x]) => sum + x, products), y = relu ? Math.max(sum, 0) : sum;
  const added = more.map(([name, x]) => ` + ${name} ${exact(x)}`).join("");
  const result = (more.length ? ` = ${exact(sum)}` : "") + (relu ? `, and not below 0: ${exact(y)}` : "");
  return make("p", {class: "note"}, `${terms.length * terms[0].length} products add up to `, make("b", {id: "products"}, exact(products)),
    `${added}${result}. The engine has `, make("b", {}, exact(elementOf(view))), ": it adds in float32 and in another order, so the last digits can differ.");
}
