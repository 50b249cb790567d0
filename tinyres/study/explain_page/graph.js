// ---------------------------------------------------------------- the graph
const nodes = [], boxes = [], edges = [];
function layout() {
  const canvas = $("canvas"), room = $("graph").clientWidth, narrow = room < 520;
  const W = narrow ? 144 : 152, H = 50, GAP = 16, LANES = 26, LEFT = 13, RIGHT = 27, TOP = 36, BOTTOM = 14;
  const BETWEEN = narrow ? 26 : 38, MARGIN = narrow ? 22 : 34, ROWS = 44;
  canvas.replaceChildren(); nodes.length = boxes.length = edges.length = 0;

  // blocks in rows: each stage begins a new row
  const stage = b => data.blocks[b].path.split(".")[0];
  let x = MARGIN, y = 16, bottom = 0, wide = 0;
  data.blocks.forEach((block, b) => {
    const lanes = 1 + Math.max(...block.cells.map(c => c.lane)), rows = 1 + Math.max(...block.cells.map(c => c.row));
    const width = LEFT + lanes * W + (lanes - 1) * LANES + RIGHT, height = TOP + rows * (H + GAP) - GAP + BOTTOM;
    const turns = b && stage(b) && stage(b - 1) && stage(b) !== stage(b - 1);
    if (b && (turns || x + width > room - 10)) {
      for (const box of boxes) box.floor ??= bottom;
      x = MARGIN; y = bottom + ROWS;
    }
    boxes.push({x, y, width, height, port: x + LEFT + W / 2, floor: null});
    bottom = Math.max(bottom, y + height); wide = Math.max(wide, x + width);
    for (const cell of block.cells)
      nodes[cell.step] = {x: x + LEFT + cell.lane * (W + LANES), y: y + TOP + cell.row * (H + GAP), ...cell};
    x += width + BETWEEN;
  });
  for (const box of boxes) box.floor ??= bottom;
  canvas.style.width = wide + 10 + "px"; canvas.style.height = bottom + 24 + "px";

  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", wide + 10); svg.setAttribute("height", bottom + 24); svg.setAttribute("aria-hidden", "true");
  svg.innerHTML = '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" ' +
    'markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path d="M0 0 8 4 0 8z"/></marker></defs>';
  boxes.forEach((box, b) => {
    const title = make("h2", {title: data.blocks[b].kind}, data.blocks[b].title);
    box.element = make("div", {class: "block"}, title);
    Object.assign(box.element.style, {left: box.x + "px", top: box.y + "px", width: box.width + "px", height: box.height + "px"});
    canvas.append(box.element);
  });
  canvas.append(svg);
  steps.forEach((step, i) => step.inputs.forEach(given => {
    if (given.step === null) return;
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", rounded(route(given.step, i, W, H)));
    path.setAttribute("class", "edge");
    svg.append(path);
    edges.push({from: given.step, to: i, carries: given.norm !== null, path});
  }));
  nodes.forEach((node, i) => {
    node.image = make("img", {alt: ""});
    const label = labelOf(i), size = steps[i].shape.slice(1).join("×") || "one number";
    const words = [make("b", {}, label), label === steps[i].op || i === 0 ? "" : make("span", {}, steps[i].op), make("span", {}, size)];
    node.element = make("button", {class: steps[i].op === "add" ? "node add" : "node", "data-step": i, "aria-label": `${nameOf(i)}, ${size}`, title: nameOf(i)},
      node.image, make("div", {}, ...words));
    Object.assign(node.element.style, {left: node.x + "px", top: node.y + "px", width: W + "px", height: H + "px"});
    node.element.addEventListener("click", () => select(i));
    canvas.append(node.element);
  });
}
function route(from, to, W, H) {
  const a = nodes[from], b = nodes[to], middle = {x: b.x + W / 2, y: b.y + H / 2};
  const below = [a.x + W / 2, a.y + H], side = [b.x + W, middle.y], above = [middle.x, b.y];
  if (blockOf[from] === blockOf[to]) {
    if (a.lane === b.lane && b.row === a.row + 1) return [below, above];
    if (a.lane === b.lane) return [[a.x + W, a.y + H / 2], [a.x + W + 13, a.y + H / 2], [a.x + W + 13, middle.y], side];
    if (b.lane > a.lane) return [[a.x + W, a.y + H / 2], [middle.x, a.y + H / 2], above];
    return [below, [below[0], middle.y], side];
  }
  const source = boxes[blockOf[from]], target = boxes[blockOf[to]], sameRow = source.y === target.y;
  const fall = sameRow ? source.y + source.height + 12 : source.floor + 20, gutter = target.x - (sameRow ? 15 : 14);
  const way = [below, [below[0], fall], [gutter, fall], [gutter, target.y - 12], [target.port, target.y - 12]];
  const branch = target.y + 26;
  if (b.lane === 0 && b.row === 0) return [...way, above];
  if (b.lane === 0) return [...way, [target.port, branch], [b.x + W + 13, branch], [b.x + W + 13, middle.y], side];
  return [...way, [target.port, branch], [middle.x, branch], above];
}
function rounded(points, radius = 9) {
  let d = `M${points[0]}`;
  for (let i = 1; i < points.length - 1; i++) {
    const [p, q, r] = [points[i - 1], points[i], points[i + 1]];
    const before = Math.hypot(q[0] - p[0], q[1] - p[1]), after = Math.hypot(r[0] - q[0], r[1] - q[1]);
    const k = Math.min(radius, before / 2, after / 2);
    if (!before || !after) continue;
    const cut = (end, far) => [q[0] + (end[0] - q[0]) * k / far, q[1] + (end[1] - q[1]) * k / far];
    d += `L${cut(p, before)}Q${q} ${cut(r, after)}`;
  }
  return d + `L${points.at(-1)}`;
}

function follow(element) {   // scroll a node near an edge to the middle; the page itself does not scroll
  const graph = $("graph"), box = graph.getBoundingClientRect(), node = element.getBoundingClientRect();
  const margin = Math.min(90, box.height / 4);
  if (node.top < box.top + margin || node.bottom > box.bottom - margin)
    graph.scrollTop += (node.top + node.bottom - box.top - box.bottom) / 2;
  if (node.left < box.left || node.right > box.right) graph.scrollLeft += (node.left + node.right - box.left - box.right) / 2;
}

