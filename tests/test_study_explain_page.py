"""The page of both passes in a real browser: clicked, and walked through with the keyboard.

This file is long because each thing that one can click or press is tried, all in one browser.
"""

import re

import numpy as np
import pytest
from support.looks import CONTRAST, DESKTOP, PHONE

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
def odd(one_thread):
    """A convolution with a bias, in groups, whose kernel has gaps and goes down and across in other steps."""
    tr.manual_seed(2)
    conv = tr.nn.Conv2d(3, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=3)
    conv.bias.data[...] = np.arange(6)
    head = [tr.nn.ReLU(), tr.nn.GlobalAvgPool2d(), tr.nn.Flatten(), tr.nn.Linear(6, 2)]
    return explain(tr.nn.Sequential(conv, *head), image(8), 0)


@pytest.fixture(scope="module")
def files(passes, odd, tmp_path_factory):
    """Pages of a small network, of an odd one, and of ResNet-20."""
    folder = tmp_path_factory.mktemp("pages")
    tr.manual_seed(0)
    large = explain(models.create("resnet20"), image(32), 0)
    for name, these, classes in (("small", passes, NAMES), ("odd", odd, None), ("resnet20", large, None)):
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
    assert "known in the backward pass" in page.locator("#panel").inner_text()
    assert page.locator(".code.pullback").count() == 0
    assert page.locator(".node.pending").count() == len(passes.steps) - 3
    page.keyboard.press("t")
    assert page.locator("#panel figure img").count() == 2 + 3 + 4  # a fork: two gradients and their sum
    assert "def pullback" in page.locator(".code.pullback pre").inner_text()
    assert page.locator(".code.model mark").inner_text() == "self.bn1(self.conv1(x), relu=True)"
    text = page.locator("#panel").inner_text()
    assert "Its gradient is a sum of 2, from" in text
    assert "A value that is used twice gets both gradients." in text
    assert page.locator(".node.pending").count() == 0


def title(step):
    """Of the panel: the sums and ReLUs of blocks have no module of their own."""
    own = {"add": f"{step.module} +", "relu": f"{step.module} (relu)", "input": "image"}
    return own.get(step.op) or step.module or step.op


def test_every_step_has_its_pictures_formula_source_and_inputs(visit, passes):
    page = visit(where="#backward-1")
    for step in reversed(passes.steps):
        shown = page.evaluate("""() => { const all = selector => [...document.querySelectorAll(selector)]; return {
          pictures: all("#panel img, .node img").every(i => i.src), title: all("#panel h2")[0].textContent,
          parents: all(".node.parent").map(n => +n.dataset.step), inputs: all("#inputs > li").length,
          formulas: all(".formulas").length, code: all(".code").length, edges: all(".edge.active").length }; }""")
        assert shown == {
            "pictures": True,
            "title": title(step),
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
        assert len(boxes) == {".node": 65, ".block": 11}[selector]
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
    assert len(ends) == page.evaluate("steps.flatMap(s => s.inputs).filter(i => i.step !== null).length") == 73
    for x, y, left, top, width, height in (end for edge in ends for end in edge):
        assert left - 1 <= x <= left + width + 1
        assert top - 1 <= y <= top + height + 1
        assert min(abs(x - left), abs(x - left - width), abs(y - top), abs(y - top - height)) <= 1


def test_a_window_that_changes_is_laid_out_anew_at_the_same_step(visit):
    page = visit("resnet20", "#backward-20")
    page.set_viewport_size(PHONE)
    eventually(page, "nodes[0].element.offsetWidth < 150")
    assert at(page)[0] == "backward 20 of 65"
    assert page.evaluate(FAULTS, 10) == []


def test_all_can_be_reached_without_a_mouse_and_without_eyes(visit):
    page = visit()
    for button in page.locator("nav button").all():
        assert button.inner_text() in (button.get_attribute("aria-label") or "Backward")
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if names[-1]:
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", names[-1]
    assert {"play", "forward", "last", "turn", "slider", "node current", "picture"} <= set(names)


def test_resnet20_makes_a_file_that_a_phone_opens(files):
    assert (files / "resnet20.html").stat().st_size < 10e6  # 7 MB of numbers at most, and the pictures


# ---------------------------------------------------------------- numbers one by one
def test_the_page_holds_every_array_to_the_bit(visit, passes):
    page = visit()
    assert page.evaluate("data.numbers.every(packed => packed)")
    for step in passes.steps:
        for kind in ("value", "gradient"):
            held = page.evaluate("([k, kind]) => [...arrayOf(steps[k][kind])]", [step.number, kind])
            assert np.array_equal(np.float32(held), getattr(step, kind).ravel()), (step.number, kind)
        for k, given in enumerate(step.inputs):
            if given.step is None:
                held = page.evaluate("([i, k]) => [...arrayOf(steps[i].inputs[k].gradient)]", [step.number, k])
                assert np.array_equal(np.float32(held), given.gradient.ravel())


ROUND = """() => {   // from each element to its pixel and back
  const found = [];
  steps.forEach((step, i) => {
    const weights = step.inputs.flatMap((given, k) => given.step !== null ? [] :
      [{key: `${i}/${k}`, shape: given.shape, weight: true, shown: given.value}]);
    const views = [viewOf(i, "value"), viewOf(i, "gradient"), ...weights];
    for (const view of views) {
      const sizes = axesOf(view).map(a => a.size), all = sizes.reduce((a, b) => a * b, 1), pixels = new Set();
      for (let n = 0; n < all; n++) {
        let left = n;
        const index = sizes.map(() => 0);
        for (let axis = sizes.length - 1; axis >= 0; axis--) {
          index[axis] = left % sizes[axis];
          left = (left - index[axis]) / sizes[axis];
        }
        choose(view, index);
        const pixel = pixelOf(view), back = indexAt(view, ...pixel);
        pixels.add(`${pixel}`);
        if (`${back}` !== `${index}`) found.push([i, view.shape, index, pixel, back]);
      }
      if (pixels.size !== all && !view.shown.picture.photograph) found.push([i, view.shape, pixels.size]);
    }
  });
  return found;
}"""


def test_each_element_has_a_pixel_and_each_pixel_its_element(visit):
    assert visit().evaluate(ROUND) == []


def shown_number(text):
    return float(text.replace("\u2212", "-"))


def readings(page, inside="#panel > .chosen"):
    """What a readout says: the index, and the numbers there by what they are."""
    index = [int(field.input_value()) for field in page.locator(f"{inside} input").all()]
    words = [span.inner_text().split() for span in page.locator(f"{inside} output span").all()]
    return index, {word: shown_number(number) for word, number in words}


def click(page, selector, x, y, width, height):
    """In the middle of a picture's pixel."""
    box = page.locator(selector).bounding_box()
    place = {"x": (x + 0.5) / width * box["width"], "y": (y + 0.5) / height * box["height"]}
    page.locator(selector).click(position=place)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_click_shows_the_number_of_value_and_gradient(visit, passes, size):
    page, last = visit(size=size), len(passes.steps)
    step = next(step for step in passes.steps if step.module == "layer2.0.conv1")  # 8 channels of 8 x 8, in 2 rows
    page.evaluate("k => go(k)", 2 * last - 1 - step.number)
    for c, i, j in ((0, 0, 0), (6, 2, 5), (7, 7, 7)):
        for kind in ("Value", "Gradient"):
            x, y = c % 4 * 9 + j, c // 4 * 9 + i
            page.evaluate("i => choose(viewOf(i, 'value'), [1, 1, 1])", step.number)
            click(page, f'.pictures [aria-label^="{kind}"]', x, y, 35, 17)
            index, numbers = readings(page)
            assert index == [c, i, j]
            expected = {"value": step.value[0, c, i, j], "gradient": step.gradient[0, c, i, j]}
            assert numbers == pytest.approx(expected, rel=1e-6)  # seven digits


def test_a_click_on_a_parameter_and_on_a_row_of_numbers(visit, passes):
    page = visit()
    step = next(step for step in passes.steps if step.module == "layer1.1.conv2")
    page.evaluate("k => go(k)", 2 * len(passes.steps) - 1 - step.number)
    click(page, "#inputs .parameter .picture >> nth=1", 2 * 4 + 1, 3 * 4 + 2, 15, 15)  # the gradient of w[3, 2, 2, 1]
    index, numbers = readings(page, "#inputs .chosen")
    assert index == [3, 2, 2, 1]
    weight = step.inputs[1]
    expected = {"value": weight.value[3, 2, 2, 1], "gradient": weight.gradient[3, 2, 2, 1]}
    assert numbers == pytest.approx(expected, rel=1e-6)
    logits = passes.steps[-2]
    page.evaluate("k => go(k)", logits.number)
    click(page, ".pictures .picture", 3, 0, 5, 1)
    assert readings(page) == ([3], {"value": pytest.approx(logits.value[0, 3], rel=1e-6)})


def test_arrows_walk_over_the_picture_that_has_the_focus(visit, passes):
    page = visit(where="#forward-2")  # conv1: 4 channels of 16 x 16
    value = passes.steps[1].value[0]
    page.evaluate("choose(viewOf(1, 'value'), [0, 14, 14])")
    page.locator(".pictures .picture").focus()
    for key, expected in (
        ("Right", [0, 14, 15]), ("Right", [1, 14, 0]), ("Down", [1, 15, 0]), ("Down", [3, 0, 0]), ("Left", [2, 0, 15]),
        ("Up", [0, 15, 15]),
    ):  # fmt: skip
        page.keyboard.press(f"Arrow{key}")
        index, numbers = readings(page)
        assert index == expected
        assert numbers["value"] == pytest.approx(value[tuple(index)], rel=1e-6)
    page.evaluate("choose(viewOf(1, 'value'), [0, 0, 0])")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert readings(page)[0] == [0, 0, 0]
    assert at(page)[1] == 1  # it was no step of the walk


def test_an_index_can_be_typed(visit, passes):
    page = visit(where="#forward-2")
    for k, (typed, taken) in enumerate((("2", 2), ("99", 15), ("-4", 0))):
        field = page.locator("#panel > .chosen input").nth(k)
        field.fill(typed)
        field.press("Tab")
        assert readings(page)[0][k] == taken
    field.press("ArrowUp")
    field.press("Home")
    index, numbers = readings(page)
    assert index == [2, 15, 1]
    assert numbers["value"] == pytest.approx(passes.steps[1].value[0, 2, 15, 1], rel=1e-6)
    assert at(page)[1] == 1


def test_of_arrays_too_large_the_page_says_that_it_leaves_them_out(visit):
    page = visit("resnet20")
    largest = page.evaluate("data.largest")
    number = page.evaluate(
        "steps.findIndex(step => step.inputs.some(given => given.step === null && !arrayOf(given.value)))"
    )
    page.evaluate("k => go(k)", number)
    text = page.locator("#inputs").inner_text()
    assert "18,432 numbers: too many to show them one by one. " in text
    assert f"each array of up to {largest:,}," in text
    assert page.locator("#worked").count() == 0  # without its filter
    assert page.locator("#inputs img").get_attribute("alt").startswith("Value of layer3")
    page.keyboard.press("Home")
    assert f"each array of up to {largest:,}," in page.locator(".keys").last.inner_text()


# ---------------------------------------------------------------- sums
def test_the_chosen_number_of_a_convolution_is_the_sum_of_its_products(visit, passes):
    page = visit()
    for step in passes.steps:
        if step.op != "conv2d":
            continue
        x, w, y = *(given.value.astype(np.float64) for given in step.inputs), step.value
        (stride, _), (padding, _) = step.attributes["stride"], step.attributes["padding"]
        padded = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
        for index in [(0, 0, 0), (3, 5, 2), tuple(n - 1 for n in y.shape[1:])]:
            page.evaluate("([i, index]) => { go(i); choose(viewOf(i, 'value'), index); }", [step.number, index])
            o, i, j = index
            window = padded[0, :, i * stride : i * stride + w.shape[2], j * stride : j * stride + w.shape[3]]
            terms = page.evaluate("([i, index]) => convolve(i, index)", [step.number, index])
            assert np.array_equal([[tap["window"] for tap in taps] for taps in terms], window.reshape(len(window), -1))
            assert np.array_equal([[tap["filter"] for tap in taps] for taps in terms], w[o].reshape(len(window), -1))
            products = shown_number(page.locator("#products").inner_text())
            assert products == pytest.approx((window * w[o]).sum(), rel=1e-6, abs=1e-12)
            # Winograd's transforms have cost up to ten times the rounding of a plain sum
            assert products == pytest.approx(y[0, o, i, j], abs=1e-5 * abs(window * w[o]).sum())
            assert page.locator("#worked b").last.inner_text() == page.locator("#panel > .chosen b").first.inner_text()


def test_groups_gaps_and_a_bias_are_worked_out_as_well(visit, odd):
    page, (step,) = visit("odd", "#forward-2"), [step for step in odd.steps if step.op == "conv2d"]
    x, w, b = (given.value.astype(np.float64) for given in step.inputs)
    padded = np.pad(x, [(0, 0), (0, 0), (2, 2), (1, 1)])
    for o, i, j in [(0, 0, 0), (3, 4, 1), tuple(n - 1 for n in step.value.shape[1:])]:
        page.evaluate("index => choose(viewOf(1, 'value'), index)", [o, i, j])
        window = padded[0, o // 2, i : i + 5 : 2, 2 * j : 2 * j + 2]  # of one channel: there are as many groups
        text = page.locator("#worked .note").inner_text()
        assert text.startswith("6 products add up to ")
        written = re.findall("\u2212?[0-9]+(?:\\.[0-9]+)?(?:e\u2212?[0-9]+)?", text.partition("up to")[2])
        products, bias, total = (shown_number(n) for n in written[:3])
        assert products == pytest.approx((window * w[o, 0]).sum(), rel=1e-5)
        assert bias == b[o] == o
        assert total == pytest.approx(step.value[0, o, i, j], rel=1e-6, abs=1e-5)  # six products of about 1 in float32


def test_the_other_channels_are_there_when_they_are_asked_for(visit):
    page = visit(where="#forward-4")
    assert page.locator("#worked .channel").count() == 3
    assert page.locator("#worked summary").inner_text() == "the other input channel"
    page.locator("#worked summary").focus()
    page.keyboard.press("Enter")
    eventually(page, "document.querySelectorAll('#worked .channel').length === 4")
    sums = [shown_number(text.split()[1]) for text in page.locator("#worked .subtotal").all_inner_texts()]
    assert sum(sums) == pytest.approx(shown_number(page.locator("#products").inner_text()), abs=4 * 5e-4)  # four digits


def test_at_a_fork_the_gradients_add_up_as_pictures_and_as_numbers(visit, passes):
    page, forks = visit(), 0
    for step in passes.steps:
        page.evaluate("k => go(k)", 2 * len(passes.steps) - 1 - step.number)
        assert page.locator(".sum img").count() == (3 if len(step.received) > 1 else 0)
        if len(step.received) < 2:
            continue
        forks += 1
        page.evaluate("([i, index]) => choose(viewOf(i, 'value'), index)", [step.number, [1, 3, 2]])
        first, second, total = (shown_number(n) for n in equation(page))
        assert [first, second] == pytest.approx([g.gradient[0, 1, 3, 2] for g in step.received], rel=1e-6)
        assert total == pytest.approx(step.gradient[0, 1, 3, 2], rel=1e-6)
        # added in float32, perhaps while the second was computed
        assert first + second == pytest.approx(total, abs=1e-5 * (abs(first) + abs(second)))
        ends = page.locator(".sum .ends").all_inner_texts()
        assert len(set(ends)) == 1  # the same colours
        titles = page.locator(".sum h4").all_inner_texts()
        assert len(set(titles)) == 3
        assert titles[-1] == "the sum"
    assert forks == 3


def equation(page):
    """Its numbers, as they are written."""
    text = page.locator(".equation").inner_text().partition(": ")[2].replace(" \u2212 ", " + \u2212")
    return text.replace(" = ", " + ").split(" + ")


def test_the_sum_of_a_block_is_a_node_with_a_plus(visit, passes):
    page = visit()
    sums = [step for step in passes.steps if step.op == "add"]
    assert len(sums) == 3
    for step in sums:
        node = page.locator(f'.node[data-step="{step.number}"]')
        assert node.locator("b").inner_text() == "+"
        assert node.get_attribute("aria-label").startswith(f"{step.module} (add)")
        node.click()
        assert page.locator(".sum img").count() == 3
        page.evaluate("([i, index]) => choose(viewOf(i, 'value'), index)", [step.number, [1, 3, 2]])
        first, second, total = (shown_number(n) for n in equation(page))
        a, b = (passes.steps[k].value[0, 1, 3, 2] for k in step.parents)
        assert [first, second, total] == pytest.approx([a, b, a + b], rel=1e-6)
        assert a + b == step.value[0, 1, 3, 2]  # to the bit
        assert "in one pass" in page.locator("#panel").inner_text()


# ---------------------------------------------------------------- without a mouse, and without eyes
def test_the_live_region_names_pass_operation_and_block(visit, passes):
    page = visit(where="#forward-8")
    said = page.locator("#said")
    assert said.get_attribute("aria-live") == "polite"
    step = passes.steps[7]
    assert said.inner_text() == f"forward 8 of {len(passes.steps)}: layer1.0 (add), in block layer1.0"
    assert step.op == "add"
    page.keyboard.press("t")
    assert said.inner_text().startswith("backward ")
    page.keyboard.press("Home")
    assert said.inner_text().endswith(": image, in the stem")
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.click("#play")
    page.clock.run_for(450 * 3 + 50)
    assert said.inner_text().endswith(": image, in the stem")  # faster than speech
    page.click("#play")
    assert said.inner_text().startswith("forward 4 of")


@pytest.mark.parametrize("name", ["small", "resnet20"])
def test_no_two_nodes_and_no_two_pictures_have_the_same_name(visit, name):
    page = visit(name)
    nodes = page.evaluate("[...document.querySelectorAll('.node')].map(node => node.getAttribute('aria-label'))")
    assert len(set(nodes)) == len(nodes) == page.evaluate("count")
    for k in range(0, 2 * page.evaluate("count"), 5):
        page.evaluate("k => go(k)", k)
        texts = page.evaluate(
            "[...document.querySelectorAll('#panel .picture')].map(box => box.ariaLabel ?? box.firstChild.alt)"
        )
        words = [text.partition(":")[0] for text in texts]
        assert all(word.startswith(("Value of ", "Gradient of the loss of ")) for word in words)
        main = page.locator(".pictures .picture").count()
        assert len(set(words[:main])) == main
        assert len(set(words[main:])) == len(words[main:]), words


FOCUS = "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"


def test_the_focus_stays(visit, passes):
    page, last = visit(), len(passes.steps) - 1
    page.locator("#last").focus()
    page.keyboard.press("Enter")
    assert at(page)[0].startswith("backward")
    assert page.evaluate(FOCUS) == "last"  # though it can go nowhere
    page.keyboard.press("Enter")
    assert at(page) == (f"backward {last + 1} of {last + 1}", 0)
    page.locator(".node.current").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("+document.activeElement.dataset.step") == 1  # it goes along
    page.set_viewport_size(PHONE)
    eventually(page, "width === $('graph').clientWidth")
    assert page.evaluate("+document.activeElement.dataset.step") == 1
    page.locator('.pictures [aria-label^="Value"]').focus()
    page.keyboard.press("t")
    assert page.evaluate("document.activeElement.ariaLabel").startswith("Value of conv1")
    page.keyboard.press("Home")
    assert page.evaluate(FOCUS) == "H2"  # no such picture any more: at the beginning of what is new
    page.keyboard.press("ArrowRight")
    page.locator("#inputs .link").first.focus()
    page.keyboard.press("Enter")
    assert at(page)[1] == 0
    assert page.evaluate("document.activeElement.textContent") == "image"


def test_all_is_done_with_the_keyboard_alone(visit, passes):
    """To a convolution, to a number of it and what it is the sum of, back to a fork, and to one of its summands."""
    page = visit()

    def tab_to(what):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("what => document.activeElement.matches(what)", what):
                return
        pytest.fail(f"{what} is not reached")

    tab_to("#forward")
    page.keyboard.press("Enter")
    page.keyboard.press("Space")  # on a button it is a click
    page.keyboard.press("ArrowRight")
    assert at(page)[1] == 3
    tab_to(".node.current")
    tab_to(".pictures .picture")
    before = page.locator("#products").inner_text()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    index, numbers = readings(page)
    assert numbers["value"] == pytest.approx(passes.steps[3].value[(0, *index)], rel=1e-6)
    after = page.locator("#products").inner_text()
    assert after != before
    assert shown_number(after) == pytest.approx(numbers["value"], abs=1e-4)
    tab_to("#panel > .chosen input")
    page.keyboard.press("ArrowDown")  # the channel before
    assert readings(page)[0][0] == index[0] - 1
    tab_to("#worked summary")
    page.keyboard.press("Enter")
    eventually(page, "document.querySelector('#worked details').open")
    tab_to("#inputs .link")
    page.keyboard.press("Enter")
    assert at(page)[1] == 2
    page.keyboard.press("t")
    assert at(page)[0].startswith("backward")
    tab_to(".sum .picture")
    page.keyboard.press("ArrowDown")
    assert page.locator(".equation").count() == 1


CUT_OFF = """selector => [...document.querySelectorAll(selector)].filter(e =>
  e.id !== "said" && !e.closest("svg") && getComputedStyle(e).display !== "inline" &&
  (e.scrollWidth > e.clientWidth + 1 || !e.getClientRects().length)).map(e => e.outerHTML.slice(0, 80))"""
OFF_SCREEN = """() => [...document.querySelectorAll("nav button, #slider, #status")].filter(e => {
  const {left, right, top, bottom} = e.getBoundingClientRect();
  return left < 0 || top < 0 || right > innerWidth || bottom > innerHeight; }).map(e => e.id)"""


@pytest.mark.parametrize("width", [358, 390])  # the site's frame on a phone, and a phone
@pytest.mark.parametrize("name", ["small", "resnet20"])
def test_nothing_is_hidden_on_a_phone(visit, name, width):
    page = visit(name, size={"width": width, "height": 844})
    assert page.locator("#about").is_visible()
    for k in (0, 7, page.evaluate("2 * count - 3")):
        page.evaluate("k => go(k)", k)
        parts = "header *, nav *, .node div, .node b, .node span, .block h2, #panel > *, #panel li > *"
        assert page.evaluate(CUT_OFF, parts) == []
        assert page.evaluate(OFF_SCREEN) == []
