// ---------------------------------------------------------------- a step
function show() {
  const i = current(), back = isBack(), step = steps[i];
  document.body.classList.toggle("back", back);
  const passed = back ? at - count + 1 : at + 1;
  const status = `${back ? "backward" : "forward"} ${passed} of ${count}`;
  $("status").textContent = status;
  say();
  $("slider").value = at;
  $("slider").setAttribute("aria-valuetext", `${status}: ${nameOf(i)}`);
  for (const [id, end] of Object.entries({first: 0, back: 0, last: 2 * count - 1, forward: 2 * count - 1}))
    $(id).setAttribute("aria-disabled", at === end);   // not `disabled`: a disabled button loses the focus
  $("turn").querySelector("span").textContent = back ? "Forward" : "Backward";
  history.replaceState(null, "", `#${back ? "backward" : "forward"}-${passed}`);

  const parents = step.inputs.filter(p => p.step !== null && (!back || p.norm !== null)).map(p => p.step);
  nodes.forEach((node, k) => {
    const known = back || k <= i, carried = back && k >= i;
    const came = steps[k].received.filter(given => given.by >= i).length;
    const all = steps[k].received.length;
    node.element.dataset.came = all > 1 ? `${came} of ${all}` : "";   // gradients so far
    const kinds = {pending: !known, current: k === i, parent: parents.includes(k), carried: carried && k !== i,
      waiting: back && !carried && came > 0};
    for (const [kind, on] of Object.entries(kinds)) node.element.classList.toggle(kind, on);
    const picture = steps[k][carried ? "gradient" : "value"].picture;
    if (known && node.shown !== picture) {
      node.image.src = picture.uri; node.image.classList.toggle("signed", picture.signed === true); node.shown = picture;
    }
    node.element.setAttribute("aria-current", k === i ? "step" : "false");
    node.element.tabIndex = k === i ? 0 : -1;
  });
  if (document.activeElement.matches(".node")) nodes[i].element.focus({preventScroll: true});
  boxes.forEach((box, b) => box.element.classList.toggle("here", b === blockOf[i]));
  for (const edge of edges) {
    const active = edge.to === i && (!back || edge.carries), carried = back && edge.to > i && edge.carries;
    edge.path.classList.toggle("active", active);
    edge.path.classList.toggle("carried", carried);
    edge.path.setAttribute(back && (active || carried) ? "marker-start" : "marker-end", "url(#tip)");
    edge.path.removeAttribute(back && (active || carried) ? "marker-end" : "marker-start");
    if (active) edge.path.parentNode.append(edge.path);
  }
  follow(nodes[i].element);
  panel(i, back);
}
// ---------------------------------------------------------------- moving
function go(to) { at = Math.max(0, Math.min(2 * count - 1, to)); show(); }
function select(i) { stop(); go(isBack() ? 2 * count - 1 - i : i); }   // in the current pass
function stop() {
  if (timer) { clearInterval(timer); timer = null; say(); }
  playing();
}
function playing() {
  $("play").setAttribute("aria-label", timer ? "Pause" : "Play");
  $("play").querySelector("span").textContent = timer ? "Pause" : "Play";
  $("play-icon").setAttribute("d", timer ? "M3 2h4v12H3zM9 2h4v12H9z" : "M4 2v12l9-6z");
}
function say() {   // for screen readers; not while it plays, which is too fast for speech
  if (timer) return;
  const i = current(), block = data.blocks[blockOf[i]];
  $("said").textContent = `${$("status").textContent}: ${nameOf(i)}, in ${block.path ? "block " : "the "}${block.title}`;
}
function play() {
  if (timer) return stop();
  if (at === 2 * count - 1) go(0);
  timer = setInterval(() => { go(at + 1); if (at === 2 * count - 1) stop(); }, 450);
  playing();
}
const moves = {first: () => go(0), back: () => go(at - 1), forward: () => go(at + 1), last: () => go(2 * count - 1),
  turn: () => go(2 * count - 1 - at)};
for (const [id, move] of Object.entries(moves)) $(id).addEventListener("click", () => { stop(); move(); });
$("play").addEventListener("click", play);
$("slider").max = 2 * count - 1;
$("slider").addEventListener("input", event => { stop(); go(+event.target.value); });
const KEYS = {ArrowLeft: "back", ArrowRight: "forward", Home: "first", End: "last", t: "turn"};
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=number]")) return;
  if (KEYS[event.key]) { event.preventDefault(); stop(); moves[KEYS[event.key]](); }
  else if (event.key === " " && !event.target.closest("button, summary")) { event.preventDefault(); play(); }
});
function fromAddress() {
  const found = location.hash.match(/^#(forward|backward)-(\d+)$/);
  if (!found) return 0;
  const k = Math.max(1, Math.min(count, +found[2])) - 1;
  return found[1] === "backward" ? count + k : k;
}
addEventListener("hashchange", () => { stop(); go(fromAddress()); });
let width = 0;
new ResizeObserver(() => {
  const now = $("graph").clientWidth;
  if (now === width) return;
  const onNode = document.activeElement.matches(".node");
  width = now; layout(); show();
  if (onNode) nodes[current()].element.focus({preventScroll: true});
}).observe($("graph"));

$("result").append("label ", make("b", {}, data.label), ` (${percent(data.label_probability)}), most likely `,
  make("b", {}, data.likeliest[0].name), ` (${percent(data.likeliest[0].probability)}), loss `, make("b", {}, number(data.loss)));
playing();
at = fromAddress();
width = $("graph").clientWidth; layout(); show();
