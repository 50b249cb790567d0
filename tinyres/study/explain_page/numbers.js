// ---------------------------------------------------------------- arrays, number by number
// A view is an array with its display: {key, what, shape, weight, shown}. Views with the same key share the chosen element.
const chosen = new Map(), decoded = new Map();
let watchers = [];   // parts of the panel that show a chosen element: [key, function to call when it changes]

const limit = data.largest ? `This page holds the numbers of each array of up to ${data.largest.toLocaleString("en")}, in the engine's own precision.`
  : "This page shows pictures only: its network has too many numbers.";
function arrayOf({numbers}) {
  const packed = data.numbers[numbers];
  if (packed && !decoded.has(numbers)) {
    const bytes = Uint8Array.from(atob(packed.base64), letter => letter.charCodeAt(0));
    decoded.set(numbers, new (packed.bits === 64 ? Float64Array : Float32Array)(bytes.buffer));
  }
  return decoded.get(numbers) ?? null;   // null: the page has no numbers of larger arrays
}
function axesOf({shape, weight}) {   // sizes and names; a batch has only one image, so its axis is left out
  const sizes = !weight && (shape.length === 4 || shape.length > 1 && shape[0] === 1) ? shape.slice(1) : shape;
  const known = weight ? {1: ["number"], 2: ["output", "input"], 4: ["output", "input", "row", "column"]}
    : {1: ["number"], 3: ["channel", "row", "column"]};
  return sizes.map((size, k) => ({size, name: (known[sizes.length] ?? [])[k] ?? `axis ${k}`}));
}
function indexOf(view) {   // at first, that of the number farthest from 0
  if (!chosen.has(view.key)) {
    const size = x => Number.isFinite(x) ? Math.abs(x) : -1, array = arrayOf(view.shown) ?? [];
    let left = array.reduce((best, x, k) => size(x) > size(array[best]) ? k : best, 0);
    const index = axesOf(view).map(axis => axis.size).reverse().map(size => {
      const k = left % size;
      left = (left - k) / size;
      return k;
    });
    chosen.set(view.key, index.reverse());
  }
  return chosen.get(view.key);
}
const offset = (sizes, index) => index.reduce((sum, k, axis) => sum * sizes[axis] + k, 0);
const elementOf = (view, index = indexOf(view)) => arrayOf(view.shown)?.[offset(axesOf(view).map(a => a.size), index)];
function choose(view, index) {
  chosen.set(view.key, index);
  for (const [key, update] of watchers) if (key === view.key) update();
}
function watch(view, update) { watchers.push([view.key, update]); update(); }

// ---------------------------------------------------------------- elements and pixels
function pixelOf(view) {   // [x, y] of the chosen element, or null if it is not in the picture
  const {tile: [h, w], across, factor, width, height, photograph} = view.shown.picture, index = indexOf(view);
  const sizes = axesOf(view).map(a => a.size), flat = view.shape.length < 4;
  const row = flat ? offset(sizes.slice(0, -1), index.slice(0, -1)) : index.at(-2), column = index.at(-1) ?? 0;
  if (view.weight && !flat && index[1] >= across) return null;
  const tiles = flat || photograph ? 0 : view.weight ? index[0] * across + index[1] : index[0];
  const at = (k, side) => factor > 1 ? Math.min(Math.floor(k / factor), side - 1) : k;
  const x = tiles % across * (w + 1) + at(column, w), y = Math.floor(tiles / across) * (h + 1) + at(row, h);
  return x < width && y < height ? [x, y] : null;
}
function indexAt(view, x, y) {   // index of the element at a pixel; a gap belongs to the tile before it
  const {tile: [h, w], across, factor, photograph} = view.shown.picture, sizes = axesOf(view).map(a => a.size);
  if (view.shape.length < 4) {
    const flat = y * (sizes.at(-1) ?? 1) + x;
    return sizes.map((size, k) => Math.floor(flat / sizes.slice(k + 1).reduce((a, b) => a * b, 1)) % size);
  }
  const [right, down] = [Math.floor(x / (w + 1)), Math.floor(y / (h + 1))];
  const place = [Math.min(y % (h + 1), h - 1), Math.min(x % (w + 1), w - 1)].map((k, axis) =>
    Math.min(Math.floor(k * factor), sizes.at(axis - 2) - 1));
  if (view.weight) return [down, right, ...place];
  const channel = photograph ? indexOf(view)[0] : down * across + right;
  return channel < sizes[0] ? [channel, ...place] : null;
}
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
function move(view, [right, down]) {   // to the next pixel, over a gap
  const {tile: [h, w], width, height} = view.shown.picture, [x, y] = pixelOf(view) ?? [0, 0];
  const over = (k, by, side) => (k + by + 1) % (side + 1) ? k + by : k + 2 * by;
  const to = [over(x, right, w), over(y, down, h)];
  if (to[0] < 0 || to[1] < 0 || to[0] >= width || to[1] >= height) return;
  const index = indexAt(view, ...to);
  if (index) choose(view, index);
}

// ---------------------------------------------------------------- pictures
function figure(view) {
  const {picture} = view.shown, strip = picture.height * 4 < picture.width;
  const small = picture.width < 50 && !strip && !picture.photograph;
  const text = `${view.what}: ${picture.caption}`, open = arrayOf(view.shown) !== null;
  const image = make("img", {src: picture.uri, alt: open ? "" : text, class: picture.signed ? "signed" : ""});
  const box = make("div", {class: "picture", style: small ? `width: ${Math.max(picture.width * 6, 40)}px` : ""}, image);
  if (open) explore(view, box, text);
  const legend = picture.photograph ? [] : [
    make("div", {class: `bar ${picture.signed ? "signed" : "values"}`}),
    make("div", {class: "ends"}, make("span", {}, number(picture.low)), ...(picture.signed ? [make("span", {}, "0")] : []),
      make("span", {}, number(picture.high)))];
  return make("figure", {class: strip ? "strip" : ""}, box, ...legend, make("figcaption", {}, picture.caption));
}
function explore(view, box, text) {   // a click or the arrow keys choose an element
  const {width, height} = view.shown.picture, cursor = make("span", {class: "cursor"});
  box.append(cursor);
  for (const [name, value] of Object.entries({tabindex: 0, role: "application", "data-focus": text,
    "aria-label": `${text}. Arrow keys choose a number.`})) box.setAttribute(name, value);
  box.addEventListener("click", event => {
    const area = box.getBoundingClientRect();
    const at = (way, size, pixels) => Math.max(0, Math.min(pixels - 1, Math.floor(way / size * pixels)));
    const index = indexAt(view, at(event.clientX - area.left, area.width, width), at(event.clientY - area.top, area.height, height));
    if (index) choose(view, index);
  });
  box.addEventListener("keydown", event => {
    if (!ARROWS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault(); event.stopPropagation();
    move(view, ARROWS[event.key]);
  });
  watch(view, () => {
    const pixel = pixelOf(view);
    cursor.hidden = !pixel;
    if (pixel) Object.assign(cursor.style, {left: 100 * pixel[0] / width + "%", top: 100 * pixel[1] / height + "%",
      width: 100 / width + "%", height: 100 / height + "%"});
  });
}
function readout(...views) {   // inputs for the chosen index, and the number of each array there
  const [view] = views, axes = axesOf(view);
  const held = views.filter(v => arrayOf(v.shown));
  if (!held.length) {
    const all = axes.reduce((n, axis) => n * axis.size, 1).toLocaleString("en");
    return make("p", {class: "note"}, `${all} numbers: too many to show them one by one. ${limit}`);
  }
  const fields = axes.map(({size, name}, k) => {
    const field = make("input", {type: "number", min: 0, max: size - 1, "data-focus": name});
    field.addEventListener("change", () => {
      const index = [...indexOf(view)], asked = Math.round(+field.value);
      index[k] = Math.max(0, Math.min(size - 1, Number.isFinite(asked) ? asked : 0));
      choose(view, index);
    });
    return field;
  });
  const said = make("output");
  watch(view, () => {
    fields.forEach((field, k) => field.value = indexOf(view)[k]);
    said.replaceChildren(...held.map(v => make("span", {}, `${v.word} `, make("b", {}, exact(elementOf(v))))));
  });
  return make("div", {class: "chosen"}, ...fields.map((field, k) => make("label", {}, axes[k].name, field)), said);
}
