"""The page of both passes in a real browser: clicked, and walked through with the keyboard."""

import re

import numpy as np
import pytest
from looks import CONTRAST, DESKTOP, PHONE

import tinyres as tr
from tinyres import models, ops
from tinyres.study import page as pages
from tinyres.study.explain import explain

LABEL, NAMES = 2, ["</script>", "<b>b</b>", "c", "d", "e"]


def network():
    tr.manual_seed(1)
    return models.ResNet(models.BasicBlock, [2, 1], widths=(4, 8), shortcut="A", num_classes=5)


def image(size=16):
    return np.random.default_rng(0).standard_normal((3, size, size), np.float32)


@pytest.fixture(scope="module")
def passes(one_thread):
    return explain(network(), image(), LABEL)


@pytest.fixture(scope="module")
def files(passes, tmp_path_factory):
    """A small network's page and ResNet-20's."""
    folder = tmp_path_factory.mktemp("pages")
    tr.manual_seed(0)
    large = explain(models.create("resnet20"), image(32), 0)
    for name, these, classes in (("small", passes, NAMES), ("resnet20", large, None)):
        html = pages.render(these, title=f"<i>{name}</i>", about="a & b", classes=classes)
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return folder


@pytest.fixture
def visit(browser, files):
    """Opens a page offline, and at the end sees that nothing went wrong in it and nothing was asked for."""
    contexts, requests, problems = [], [], []

    def open_page(name="small", where="", *, size=DESKTOP, scheme="light"):
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto((files / f"{name}.html").as_uri() + where)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
    assert {url.partition("#")[0] for url in requests if not url.startswith("data:")} <= {
        path.as_uri() for path in files.iterdir()
    }
    assert requests


def at(page):
    """The status line, and the node that is marked as the current one."""
    status, marked = page.evaluate("""[document.getElementById("status").textContent,
        [...document.querySelectorAll('.node[aria-current="step"]')].map(node => +node.dataset.step)]""")
    (current,) = marked
    return status, current


def eventually(page, expression):
    """Wait until it holds. (Playwright's own way evaluates strings in the page, whose policy forbids that.)"""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(25)
    pytest.fail(f"{expression} does not come to hold")


def places(count):
    """What `at` gives at each step of the walk."""
    yield from ((f"forward {k + 1} of {count}", k) for k in range(count))
    yield from ((f"backward {k + 1} of {count}", count - 1 - k) for k in range(count))


# ---------------------------------------------------------------- moving
def test_the_buttons_walk_through_both_passes_and_back(visit, passes):
    page, walk = visit(), list(places(len(passes.steps)))
    assert page.locator("#back").is_disabled()
    assert page.locator("#first").is_disabled()
    for expected in walk:
        assert at(page) == expected
        if expected != walk[-1]:
            page.click("#forward")
    assert page.locator("#forward").is_disabled()
    assert page.locator("#last").is_disabled()
    page.click("#back")
    for expected in reversed(walk[:-1]):
        assert at(page) == expected
        page.evaluate("document.getElementById('back').click()")  # from here on without the mouse, which takes longer
    page.click("#last")
    assert at(page) == walk[-1]
    page.click("#first")
    assert at(page) == walk[0]


def test_the_keys_do_the_same(visit, passes):
    page, walk = visit(), list(places(len(passes.steps)))
    for expected in walk:
        assert at(page) == expected
        page.keyboard.press("ArrowRight")
    assert at(page) == walk[-1]  # there is nothing behind the last
    page.keyboard.press("ArrowLeft")
    assert at(page) == walk[-2]
    page.keyboard.press("Home")
    assert at(page) == walk[0]
    page.keyboard.press("ArrowLeft")
    assert at(page) == walk[0]
    page.keyboard.press("End")
    assert at(page) == walk[-1]
    page.keyboard.press("t")  # the same node, forward
    assert at(page) == walk[0]


def test_a_key_is_one_step_wherever_the_focus_is(visit, passes):
    page, walk = visit(), list(places(len(passes.steps)))
    for k, focus in enumerate(["#slider", "#forward", "#play", '.node[data-step="2"]'], 1):
        page.locator(focus).focus()
        page.keyboard.press("ArrowRight")
        assert at(page) == walk[k]


def test_the_slider(visit, passes):
    page, walk = visit(), list(places(len(passes.steps)))
    for k in (5, len(walk) - 3, 0):
        page.locator("#slider").fill(str(k))
        assert at(page) == walk[k]
    assert page.locator("#slider").get_attribute("max") == str(len(walk) - 1)


def test_a_click_on_a_node_or_a_link_goes_there_on_the_same_pass(visit, passes):
    page, count = visit(), len(passes.steps)
    page.click('.node[data-step="6"]')
    assert at(page) == (f"forward 7 of {count}", 6)
    page.click("#turn")
    assert at(page) == (f"backward {count - 6} of {count}", 6)
    page.click('.node[data-step="2"]')
    assert at(page) == (f"backward {count - 2} of {count}", 2)
    page.click("#received .link >> nth=0")
    assert at(page)[1] == passes.steps[2].received[0].by
    assert at(page)[0].startswith("backward")


def test_play_goes_on_by_itself_until_it_is_stopped(visit, passes):
    page, walk = visit(), list(places(len(passes.steps)))
    page.clock.install(time=0)
    page.clock.pause_at(1000)  # or it would go on as the machine's does, however slow that is
    page.click("#play")
    page.clock.run_for(450 * 3 + 50)
    assert at(page) == walk[3]
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    page.click("#play")
    page.clock.run_for(450 * 3)
    assert at(page) == walk[3]
    page.locator("body").press("Space")
    page.clock.run_for(450 * len(walk) * 2)
    assert at(page) == walk[-1]
    assert page.locator("#play").get_attribute("aria-label") == "Play"


def test_the_address_keeps_the_step(visit, passes):
    page, count = visit(where="#backward-3"), len(passes.steps)
    assert at(page) == (f"backward 3 of {count}", count - 3)
    page.keyboard.press("ArrowRight")
    assert page.url.endswith("#backward-4")
    page.reload()
    assert at(page) == (f"backward 4 of {count}", count - 4)
    page.evaluate("location.hash = 'forward-2'")
    eventually(page, "document.getElementById('status').textContent.startsWith('forward 2')")
    for nonsense in ("#backward-0", "#forward-999", "#elsewhere", "#forward-<b>"):
        page.goto(page.url.partition("#")[0] + nonsense)
        page.reload()
        assert at(page) in set(places(count))


# ---------------------------------------------------------------- what is shown
def test_numbers_are_those_of_an_ordinary_backward(visit, passes):
    x = tr.Tensor(image()[None], requires_grad=True)
    model = network()
    loss = ops.cross_entropy(model(x), [LABEL])
    loss.backward()

    page = visit()
    page.keyboard.press("End")
    cells = page.locator("#statistics tr").all_inner_texts()
    shown = {row.split("\t")[0]: row.split("\t")[1:] for row in cells}

    def value(text):
        return float(text.replace("\u2212", "-").removesuffix(" %"))

    for name, function in (("smallest", np.min), ("largest", np.max), ("norm", lambda a: np.linalg.norm(a.ravel()))):
        assert value(shown[name][0]) == pytest.approx(function(x.data), rel=1e-2)  # 3 digits at least
        assert value(shown[name][1]) == pytest.approx(function(x.grad), rel=1e-2)

    data = page.evaluate("data")
    assert data["loss"] == loss.item()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    seen = {i["name"]: i for step in data["steps"] for i in step["inputs"] if i["step"] is None}
    assert seen.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert seen[name]["gradient"]["statistics"] == pages.statistics(gradient)
    for shown_step, step in zip(data["steps"], passes.steps, strict=True):
        assert shown_step["gradient"]["statistics"] == pages.statistics(step.gradient)
        assert shown_step["value"]["statistics"] == pages.statistics(step.value)


def test_forward_shows_values_and_backward_gradients_too(visit, passes):
    page = visit(where="#forward-3")
    assert page.locator("#panel figure img").count() == 1 + 2  # bn1, its weight and its bias
    assert "is known on the way back" in page.locator("#panel").inner_text()
    assert page.locator(".code.pullback").count() == 0
    assert page.locator(".node.pending").count() == len(passes.steps) - 3
    page.keyboard.press("t")
    assert page.locator("#panel figure img").count() == 2 + 4
    assert "def pullback" in page.locator(".code.pullback pre").inner_text()
    assert page.locator(".code.model mark").inner_text() == "self.bn1(self.conv1(x), relu=True)"
    text = page.locator("#panel").inner_text()
    assert "Its gradient is a sum of 2, from" in text
    assert "What is used twice gets both gradients." in text
    assert page.locator(".node.pending").count() == 0


def test_every_step_has_its_pictures_formula_source_and_inputs(visit, passes):
    page = visit(where="#backward-1")
    for step in reversed(passes.steps):
        shown = page.evaluate("""() => { const all = selector => [...document.querySelectorAll(selector)]; return {
          pictures: all("#panel img, .node img").every(i => i.src), title: all("#panel h2")[0].textContent,
          parents: all(".node.parent").map(n => +n.dataset.step), inputs: all("#inputs > li").length,
          formulas: all(".formulas").length, code: all(".code").length, edges: all(".edge.active").length }; }""")
        assert shown == {
            "pictures": True,
            "title": step.module or {"input": "image"}.get(step.op, step.op),
            "parents": sorted(set(step.parents)),
            "inputs": len(step.inputs),
            "formulas": 2 if step.number else 0,
            "code": 4 - (step.layer == step.model) if step.number else 0,
            "edges": len(step.parents),
        }
        page.keyboard.press("ArrowRight")
    eventually(page, "[...document.images].filter(i => i.src).every(i => i.complete && i.naturalWidth)")


def test_a_node_says_how_much_of_its_gradient_has_come(visit, passes):
    user = passes.steps[2].received[0].by  # the first block's sum gives to bn1 before its conv1 does
    page = visit(where=f"#backward-{len(passes.steps) - user}")
    waiting = page.locator(".node.waiting")
    assert {n.get_attribute("data-step") for n in waiting.all()} >= {"2"}
    assert page.locator('.node[data-step="2"]').get_attribute("data-came") == "1 of 2"


def test_names_are_text_and_end_no_script(visit, passes):
    page = visit()
    assert page.locator("h1").inner_text() == "<i>small</i>"
    assert page.locator("#about").inner_text() == "a & b"
    page.click(f'.node[data-step="{len(passes.steps) - 1}"]')
    assert page.locator("h1 i, header p b b, #panel li b").count() == 0
    assert set(NAMES) == set(page.locator("#panel ul >> nth=0").inner_text().split("\n")[::2])


# ---------------------------------------------------------------- how it looks
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, scheme):
    page = visit(scheme=scheme)
    for k in range(0, 2 * page.evaluate("count"), 4):
        page.evaluate("k => go(k)", k)
        found = page.evaluate(CONTRAST)
        assert len(found) > 40
        assert found[0][0] >= 4.5, found[:3]  # WCAG 2.2, 1.4.3
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", ground)))
    assert brightness > 600 if scheme == "light" else brightness < 100


FAULTS = """by => {
  const found = [], graph = document.getElementById("graph"), panel = document.getElementById("panel");
  for (let k = 0; k < 2 * count; k += by) {
    go(k);
    const over = (e, what) => { if (e.scrollWidth > e.clientWidth) found.push([k, what, e.scrollWidth]); };
    over(document.documentElement, "page"); over(graph, "graph"); over(panel, "panel");
    if (document.documentElement.scrollHeight > innerHeight) found.push([k, "height"]);
    const n = document.querySelector(".node.current").getBoundingClientRect(), g = graph.getBoundingClientRect();
    if (n.top < g.top || n.bottom > g.bottom || n.left < g.left || n.right > g.right) found.push([k, "out of sight"]);
  }
  return found;
}"""


@pytest.mark.parametrize("name", ["small", "resnet20"])
def test_nothing_is_wider_than_the_screen_and_the_current_node_is_in_sight(visit, name):
    page = visit(name)
    for size in (DESKTOP, PHONE, {"width": 820, "height": 1180}):
        page.set_viewport_size(size)
        eventually(page, "width === $('graph').clientWidth")
        assert page.evaluate(FAULTS, 3 if name == "resnet20" else 1) == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nodes_and_blocks_do_not_overlap(visit, size):
    page = visit("resnet20", size=size)
    for selector, apart in ((".node", 8), (".block", 8)):
        boxes = page.evaluate(f"""[...document.querySelectorAll("{selector}")].map(e =>
          [e.offsetLeft, e.offsetTop, e.offsetLeft + e.offsetWidth, e.offsetTop + e.offsetHeight])""")
        assert len(boxes) == {".node": 47, ".block": 11}[selector]
        for i, (left, top, right, bottom) in enumerate(boxes):
            for other in boxes[:i]:
                beside = left >= other[2] + apart or other[0] >= right + apart
                assert beside or top >= other[3] + apart or other[1] >= bottom + apart


def test_edges_lead_from_node_to_node(visit):
    page = visit("resnet20")
    ends = page.evaluate("""edges.map(({from, to, path}) => {
      const length = path.getTotalLength(), a = path.getPointAtLength(0), b = path.getPointAtLength(length);
      const box = i => [nodes[i].element].flatMap(e => [e.offsetLeft, e.offsetTop, e.offsetWidth, e.offsetHeight]);
      return [[a.x, a.y, ...box(from)], [b.x, b.y, ...box(to)]]; })""")
    assert len(ends) == page.evaluate("steps.flatMap(s => s.inputs).filter(i => i.step !== null).length") == 55
    for x, y, left, top, width, height in (end for edge in ends for end in edge):
        assert left - 1 <= x <= left + width + 1
        assert top - 1 <= y <= top + height + 1
        assert min(abs(x - left), abs(x - left - width), abs(y - top), abs(y - top - height)) <= 1


def test_a_window_that_changes_is_laid_out_anew_at_the_same_step(visit):
    page = visit("resnet20", "#backward-20")
    page.set_viewport_size(PHONE)
    eventually(page, "nodes[0].element.offsetWidth < 140")
    assert at(page)[0] == "backward 20 of 47"
    assert page.evaluate(FAULTS, 10) == []


def test_all_can_be_reached_without_a_mouse_and_without_eyes(visit):
    page = visit()
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    for button in page.locator("nav button").all():
        assert button.get_attribute("aria-label")
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if names[-1]:
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", names[-1]
    assert {"play", "forward", "last", "turn", "slider"} <= set(names)  # the first two can go nowhere yet


def test_resnet20_makes_a_file_that_is_easily_sent(files):
    assert (files / "resnet20.html").stat().st_size < 3e6
