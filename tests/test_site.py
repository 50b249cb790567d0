"""The site that `make docs` builds: links lead somewhere, no public name is missing, and all can be read.

This file is long because it looks at all that a reader meets: links, names, formulas, the search, and narrow screens.
"""

import inspect
import io
import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote_plus, unquote, urlsplit

import pytest
from PIL import Image
from sphinx.search.en import SearchEnglish
from support.looks import CONTRAST, PHONE
from support.public import MODULES, public
from typer.main import get_command

from tinyres import cli
from tinyres.study.gym import LEVELS

DOCS = Path(__file__).parents[1] / "docs"
SITE = DOCS / "_build"
if not (SITE / "index.html").exists():
    pytest.skip("there is no site: `make docs` builds it", allow_module_level=True)


class Page(HTMLParser):
    """What a page can be linked by, what it links to, and what a browser fetches with it."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.fetched, self.pictures = {""}, [], [], []
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if "src" in values:
            self.fetched.append(values["src"])
        if tag == "img":
            self.pictures.append((values["src"], self.links[-1:]))
        if tag == "link" and "stylesheet" in values.get("rel", ""):
            self.fetched.append(values["href"])


@pytest.fixture(scope="module")
def site():
    """The site's folder, and its pages by path. What has changed since `make docs` is built again."""
    run = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", DOCS, SITE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return SITE, {path: Page(path) for path in SITE.rglob("*.html")}


def test_every_source_is_a_page(site):
    folder, pages = site
    for source in [*DOCS.rglob("*.md"), *DOCS.glob("notebooks/*.ipynb")]:
        assert folder / source.relative_to(DOCS).with_suffix(".html") in pages


def test_links_lead_somewhere(site):
    _, pages = site
    count = 0
    for path, page in pages.items():
        for link in page.links + page.fetched:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.name}: {link}"
            if target in pages and parts.path + parts.fragment != "#":
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name}: {link}"
            count += 1
    assert count > 1000


def test_pages_can_be_read_without_a_network(site):
    folder, pages = site
    assert not [src for page in pages.values() for src in page.fetched if urlsplit(src).netloc]
    style = (folder / "_static" / "tinyres.css").read_text()
    assert "@import" not in style
    for url in re.findall(r'url\("?(.*?)"?\)', style):
        assert (folder / "_static" / url).is_file(), url


def test_formulas_are_mathml(site):
    folder, _ = site
    text = (folder / "tour" / "batch_norm.html").read_text()
    assert text.count('display="block"') >= 6
    formulas = re.findall("<math.*?</math>", text, re.S)
    left = [f for f in formulas if "\\" in f or "&</mi>" in f or "<merror" in f]
    assert left == [], "a formula that the converter does not know"


def test_every_public_name_is_in_the_api(site):
    _, pages = site
    known = set().union(*(page.anchors for page in pages.values()))
    there = {id(value) for module in MODULES for name, value in public(module) if f"{module}.{name}" in known}
    for module in MODULES:
        for name, value in public(module):
            assert id(value) in there, f"{module}.{name}"  # under one of its names, where it has several
            assert value.__doc__


def test_every_command_and_option_can_be_linked(site):
    folder, pages = site
    page = pages[folder / "commands.html"]
    count = 0

    def check(command, name):
        nonlocal count
        assert name.replace(" ", "-") in page.anchors
        for parameter in command.params:
            option = re.sub(r"[^\w-]", "", parameter.opts[0].lstrip("-"))
            kind = "" if parameter.opts[0].startswith("-") else "arg-"
            assert f"cmdoption-{name.replace(' ', '-')}-{kind}{option}" in page.anchors, f"{name}: {option}"
            count += 1
        for below, of in getattr(command, "commands", {}).items():
            check(of, f"{name} {below}")

    check(get_command(cli.app), "tinyres")
    assert count > 150


SOUGHT = {
    "install": "howto/install",
    "uninstall": "howto/install",
    "train": "howto/cifar10",
    "train cifar": "howto/cifar10",
    "predict": "howto/predict",
    "evaluate": "howto/predict",
    "own pictures": "howto/pictures",
    "fine-tune": "howto/finetune",
    "resume": "howto/resume",
    "memory": "howto/memory",
    "slow": "howto/slow_machine",
    "export": "howto/export",
    "figure": "howto/figures",
    "reproduce": "howto/figures",
    "own operation": "tutorials/own_op",
    "own block": "tutorials/own_block",
    "own data": "tutorials/own_data",
    "several processes": "parallel",
    "command line": "commands",
    "faq": "faq",
    "GPU": "faq",
    "NaN": "faq",
    "Windows": "faq",
    "licence": "faq",
    "cite": "faq",
    "gym": "gym",
    "start": "start/index",
    "glossary": "glossary",
}
"""What somebody types, and the page whose title or heading has to have these words."""

MEANT = {
    "pretrained": "howto/finetune",
    "transfer learning": "howto/finetune",
    "pth": "howto/finetune",
    "ONNX": "howto/export",
    "inference": "howto/predict",
    "out of memory": "howto/memory",
    "pip": "howto/install",
    "interrupt": "howto/resume",
    "jpg": "howto/pictures",
    "dataset": "howto/cifar10",
    "custom dataset": "howto/pictures",
    "checkpoint": "howto/resume",
    "batch size": "howto/memory",
    "license": "faq",
    "citation": "faq",
    "pullback": "glossary",
    "im2col": "glossary",
    "bottleneck": "glossary",
    "logits": "glossary",
    "one-cycle": "glossary",
}
"""The same for words that a page has in its text or among its keywords."""


def test_pages_are_found_by_the_words_that_somebody_types(site):
    folder, _ = site
    index = json.loads((folder / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")"))
    language = SearchEnglish({})

    def pages_with(words, *tables):
        """Those that have all words, stemmed as the site's own search does it."""
        found = []
        for word in re.findall(r"\w+", words):
            if language.word_filter(stem := language.stem(word.lower())):
                places = [index[table].get(stem, []) for table in tables]
                found.append({p for place in places for p in (place if isinstance(place, list) else [place])})
        return {index["docnames"][page] for page in set.intersection(*found)}

    for words, page in SOUGHT.items():
        assert page in pages_with(words, "titleterms"), words
    for words, page in MEANT.items():
        assert page in pages_with(words, "titleterms", "terms"), words
    assert pages_with("blockchain", "titleterms", "terms") == set()


# ---------------------------------------------------------------- the API's pages
def plain(markup):
    return re.sub(r"\s+", " ", unescape(re.sub("<.*?>", "", markup))).strip()


def signatures(pages):
    """Of every name in the API: page, markup and text."""
    for path, page in pages.items():
        if path.parent.name == "api":
            for name, markup in re.findall(r'<dt class="sig sig-object py" id="(.*?)">\n(.*?)</dt>', page.text, re.S):
                yield name, (path, markup, plain(markup))


def test_every_module_has_a_summary_of_its_names(site):
    _, pages = site
    shown = set()
    for page in pages.values():
        for table in re.findall(r'<table class="summary.*?</table>', page.text, re.S):
            rows = re.findall(r"<tr.*?</tr>", table, re.S)[1:]
            assert rows
            for row in rows:
                (name,) = re.findall(r'href="#(.*?)"', row)[:1]
                summary = plain(row.split("</td>")[1])
                assert name in page.anchors
                assert summary, name
                shown.add(name)
    for module in MODULES:
        names = [f"{module}.{name}" for name, _ in public(module)]
        there = [name for name in names if any(name == full for full, _ in signatures(pages))]
        assert set(there) - shown <= {"tinyres.Trainer"}, module  # which is alone in its section


@pytest.mark.parametrize("module", MODULES)
def test_a_docstring_begins_with_a_summary_of_one_line(module):
    for name, value in public(module):
        members = vars(value).items() if inspect.isclass(value) else ()
        for member, method in [(name, value), *members]:
            described = member == name or inspect.isfunction(method) or isinstance(method, property)
            if described and not member.startswith("_") and method.__doc__:
                first = inspect.cleandoc(method.__doc__).split("\n\n")[0]
                assert "\n" not in first, f"{module}.{name}: {member}"


def test_signatures_have_the_types_of_the_source(site):
    _, pages = site
    known = dict(signatures(pages))
    texts = {name: text for name, (_, _, text) in known.items()}
    assert "(x: Tensor, start_dim: int = 1, end_dim: int = -1) → Tensor" in texts["tinyres.ops.flatten"]
    assert "running_mean: Array, running_var: Array, weight: Tensor" in texts["tinyres.ops.batch_norm"]
    assert "kernel_size: int | tuple[int, int], *," in texts["tinyres.ops.avg_pool2d"]  # no private name
    assert "rows: list[Row], optimizer: Cost, rest: float" in texts["tinyres.profile.Profile"]  # a data class
    assert ": Array" in texts["tinyres.evaluation.Scores.confusion"]  # a property
    assert 'href="tinyres.html#tinyres.Tensor"' in known["tinyres.ops.flatten"][1]
    wrong = [text for text in texts.values() if re.search(r"\(self\b|\(cls\b|numpy\.ndarray|<class|object at 0x", text)]
    assert wrong == []
    bare = [
        name
        for module in MODULES
        for name, value in public(module)
        if inspect.isfunction(value) and (text := texts.get(f"{module}.{name}", "()")) and "()" not in text
        if ":" not in text and module != "tinyres.testing.strategies"
    ]
    assert bare == []


def test_every_public_name_leads_to_its_source(site):
    _, pages = site
    known, seen = dict(signatures(pages)), 0
    for module in MODULES:
        for name, value in public(module):
            if f"{module}.{name}" not in known:
                continue  # it is there under another name
            path, markup, _ = known[f"{module}.{name}"]
            (link,) = re.findall(
                r'class="reference internal" href="(\.\./_modules/.*?)"><span class="viewcode-link"', markup
            )
            target, _, anchor = link.partition("#")
            source = pages[(path.parent / target).resolve()].text
            begin = (
                unescape(re.sub("<.*?>", "", source.split(f'id="{anchor}">')[1][:2000])).replace("[docs]", "").strip()
            )
            if module == "tinyres.testing.strategies" and inspect.isfunction(value):  # Hypothesis hides its lines
                assert begin.startswith(("@", "def "))
                assert f"def {name}(" in begin
            else:
                assert begin.startswith(inspect.getsource(value).splitlines()[0]), f"{module}.{name}"
            seen += 1
    assert seen > 150


def test_every_function_class_method_and_property_leads_to_its_source(site):
    _, pages = site
    entry = r'<dl class="py (\w+)">\n<dt class="sig sig-object py" id="(.*?)">\n(.*?)</dt>'
    leads = {}
    for path, page in pages.items():
        for kind, name, markup in re.findall(entry, page.text, re.S) if path.parent.name == "api" else ():
            links = re.findall(r'href="\.\./_modules/([^"]*)"><span class="viewcode-link"', markup)
            assert kind in {"data", "attribute"} or len(links) == 1, name
            leads[name] = links
    assert len(leads) > 600
    assert leads["tinyres.Trainer.predict"] == ["tinyres/classifier.html#Classifier.predict"]  # inherited
    assert leads["tinyres.Tensor.view"] == ["tinyres/tensor.html#Tensor.reshape"]  # a second name
    assert leads["tinyres.Tensor.is_leaf"] == ["tinyres/tensor.html#Tensor.is_leaf"]  # a property


def test_formulas_of_docstrings_are_mathml(site):
    folder, pages = site
    texts = [page.text for path, page in pages.items() if path.parent == folder / "api"]
    entries = "".join(texts)
    assert entries.count('<div class="math">') >= 20
    assert "highlight-none" not in entries
    (ops,) = (page.text for path, page in pages.items() if path.match("api/ops.html"))
    assert "<mtext>softplus</mtext>" in ops
    assert ops.count("<mi>&#x02202;</mi>") + ops.count("<mo>&#x02202;</mo>") >= 100  # partial derivatives


def test_operations_say_which_levels_of_the_gym_are_theirs(site):
    _, pages = site
    (ops,) = (page.text for path, page in pages.items() if path.match("api/ops.html"))
    entries = dict(
        re.findall(r'<dt class="sig sig-object py" id="tinyres\.ops\.(\w+)">(.*?)(?=<dl class="py|\Z)', ops, re.S)
    )
    for op in {level.op for level in LEVELS}:
        ((numbers, link),) = re.findall(r"Practise its gradient: levels? (.*?) of <a .*? href=\"(.*?)\"", entries[op])
        assert [int(number) for number in re.findall(r"\d+", numbers)] == [v.number for v in LEVELS if v.op == op]
        assert link == "../gym.html"
    assert ops.count("Practise its gradient") == len({level.op for level in LEVELS})


def test_titles_of_papers_are_links(site):
    _, pages = site
    (ops,) = (page.text for path, page in pages.items() if path.match("api/ops.html"))
    assert '<a class="reference external" href="https://arxiv.org/abs/1502.03167">Batch normalization</a>' in ops
    links = [link for page in pages.values() for link in page.links if link.startswith("https://arxiv.org/abs/")]
    assert len(links) > 100


def test_notebooks_show_what_they_compute(site):
    folder, pages = site
    texts = {path.stem: page.text for path, page in pages.items() if path.parent == folder / "notebooks"}
    assert "<b>Tensor</b> (3,) float32, requires_grad" in texts["own_operation"]
    assert "<b>ResNet</b>" in texts["look"]
    assert "<b>Run</b> <code>resnet20</code>" in texts["train"]
    for name, pictures in (("train", 4), ("look", 6), ("own_operation", 1)):
        assert len(pages[folder / "notebooks" / f"{name}.html"].pictures) >= pictures
        assert "stderr" not in texts[name], "a warning, say"


def test_networks_to_step_through_are_in_the_site(site):
    folder, pages = site
    linked = {(folder / link).resolve() for link in pages[folder / "explain.html"].links if link.startswith("explain/")}
    assert linked == set((folder / "explain").glob("*.html"))
    assert len(linked) == 2
    assert all(path.stat().st_size < 1.5e6 for path in linked)


def test_the_font_of_formulas_comes_with_its_licence(site):
    folder, _ = site
    for static in (DOCS / "_static", folder / "_static"):
        font = (static / "stix-two-math.woff2").read_bytes()
        assert font.startswith(b"wOF2")
        assert len(font) < 1_000_000
        assert "SIL OPEN FONT LICENSE Version 1.1" in (static / "stix-two-math-licence.txt").read_text()


def test_a_picture_opens_large(site):
    _, pages = site
    pictures = [shown for page in pages.values() for shown in page.pictures if "_images/" in shown[0]]
    assert len(pictures) >= len([*DOCS.glob("*.png")]) - 1  # one is README's
    for source, links in pictures:
        assert [source] == links


def test_parameters_that_share_a_text_are_one_entry(site):
    _, pages = site
    entries = 0
    for path, page in pages.items():
        for fields in re.findall(r'<dd class="field-(?:odd|even)">(.*?)</dd>', page.text, re.S):
            texts = re.findall(r"<li><p><strong>.*?</strong> (.*?)</p>", fields, re.S)
            described = [text for text in texts if "</em>) – " in text]
            assert len(set(described)) == len(described), f"{path.name}: {described}"
            entries += len(described)
    assert entries > 150
    (models,) = (page.text for path, page in pages.items() if path.match("api/models.html"))
    entry = "<strong>in_channels, channels</strong> (<em>int</em>) – Channels of the input, and of the block."
    assert entry in models


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_kind_of_code_stands_out_from_its_ground(site, scheme):
    folder, _ = site
    style = (folder / "_static" / "pygments.css").read_text()
    where = r"^" if scheme == "light" else r'^body\[data-theme="dark"\] '
    rules = dict(re.findall(where + r"\.highlight ?(\.\w+)? \{(.*?)\}", style, re.M))

    def colour(kind, name):
        return re.search(rf"(?<![-\w]){name}: (#\w+)", rules[kind])

    kinds = [kind for kind in rules if colour(kind, "color")]
    assert {"", ".c1", ".mi", ".k", ".s2"} <= set(kinds)
    for kind in kinds:
        ground = colour(kind, "background-color") or colour("", "background")
        assert contrast(colour(kind, "color")[1], ground[1]) >= 4.5, kind  # WCAG 2.2, 1.4.3


def contrast(*colours):
    """Of two, written as ``#rrggbb`` or ``#rgb``."""
    light = []
    for colour in colours:
        digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        light.append(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


# ---------------------------------------------------------------- the site, looked at
@pytest.fixture
def look(site, browser):
    """Shows pages of the site one after the other, offline; of those of source, which are all alike, one."""
    folder, pages = site
    context = browser.new_context(offline=True)
    page = context.new_page()

    def show(*names):
        for path in sorted(pages):
            if path.stem in names if names else "_modules" not in path.parts or path.stem == "train":
                page.goto(path.as_uri())
                yield path.relative_to(folder), page

    yield show
    context.close()


def test_all_text_stands_out_from_its_ground(look):
    count = 0
    for path, page in look(
        "studies", "gym", "conv2d", "one_number", "commands", "glossary", "testing", "ops", "recompute", "genindex"
    ):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = page.evaluate(CONTRAST)
            assert found[0][0] >= 4.5, f"{path}, {scheme}: {found[:3]}"
            count += 1
    assert count >= 20


def wider_than_their_boxes(page, selector):
    return page.evaluate(f"""[...document.querySelectorAll("{selector}")].filter(e => e.scrollWidth > e.clientWidth)
        .map(e => [e.tagName, e.scrollWidth, e.clientWidth, e.textContent.trim().slice(0, 60)])""")


def test_code_and_formulas_fit_a_window_and_pages_a_phone(look):
    for path, page in look():
        for width in (390, 1280, 1664) if "api" not in path.parts else (390, 1280):
            # the theme shows a page's contents beside it from 1664 on
            page.set_viewport_size({"width": width, "height": 900})
            boxes = "html, .content" if width == 390 else "html, pre, div.math, .table-wrapper"
            assert wider_than_their_boxes(page, boxes) == [], f"{path} at {width}"


def test_the_search_gives_these_pages_among_the_first(site, browser):
    folder, _ = site
    context = browser.new_context(offline=True)
    page = context.new_page()
    for words, wanted in (SOUGHT | MEANT).items():
        if wanted == "glossary" and words != wanted:
            continue  # its terms come first too, but Sphinx forgets a page's index entries when it builds others again
        page.goto(f"{(folder / 'search.html').as_uri()}?q={quote_plus(words)}")
        page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('finished')")
        links = page.eval_on_selector_all("#search-results li a", "links => links.map(a => a.getAttribute('href'))")
        assert f"{wanted}.html" in [re.split("[?#]", link)[0] for link in links[:3]], f"{words}: {links[:5]}"
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_network_is_stepped_through_inside_its_page(look, width):
    for path, page in look("explain"):
        if path.name != str(path):  # a page of source
            continue
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator("iframe").get_attribute("title")
        page.locator("iframe").scroll_into_view_if_needed()
        frame = page.frame_locator("iframe")
        frame.locator("#forward").click()
        assert frame.locator("#status").inner_text() == "forward 2 of 21"
        frame.locator(".pictures .picture").press("ArrowRight")
        assert frame.locator("#products").is_visible()
        assert frame.locator("#status").inner_text() == "forward 2 of 21"
        frame.locator("#panel").evaluate("panel => panel.scrollTo(0, 0)")
        value, panel = (frame.locator(part).bounding_box() for part in ("#panel > .chosen output", "#panel"))
        assert value["y"] + value["height"] <= panel["y"] + panel["height"]  # the chosen number is not cut off


def test_a_page_in_a_page_has_the_theme_that_is_chosen(look):
    for path, page in look("explain"):
        if path.name != str(path):  # a page of source
            continue
        page.emulate_media(color_scheme="null")  # what is emulated would hold inside as well
        page.locator("iframe").scroll_into_view_if_needed()
        page.frame_locator("iframe").locator("#forward").wait_for()
        (inside,) = page.frames[1:]
        for theme, dark in (("dark", "true"), ("light", "false"), ("dark", "true")):
            page.evaluate("theme => { document.body.dataset.theme = theme }", theme)
            inside.wait_for_function(f"matchMedia('(prefers-color-scheme: dark)').matches === {dark}")


def test_copy_buttons_show_to_the_keyboard(look):
    for _, page in look("install"):
        button = page.locator("button.copybtn").first
        assert button.evaluate("button => getComputedStyle(button).opacity") == "0"
        for _ in range(100):
            page.keyboard.press("Tab")
            if button.evaluate("button => button === document.activeElement"):
                break
        button.evaluate("button => Promise.all(button.getAnimations().map(animation => animation.finished))")
        opacity, outline = button.evaluate("b => [getComputedStyle(b).opacity, getComputedStyle(b).outlineStyle]")
        assert (opacity, outline) == ("1", "solid")


def test_a_phone_shows_copy_buttons_and_where_a_drawing_goes_on(site, browser):
    folder, _ = site
    context = browser.new_context(offline=True, viewport=PHONE, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto((folder / "howto" / "install.html").as_uri())
    assert page.locator("button.copybtn").first.evaluate("button => getComputedStyle(button).opacity") == "1"
    page.goto((folder / "start" / "one_number.html").as_uri())
    drawn, shades = page.locator(".drawn").first, []
    for left in (0, 150, 10_000):
        drawn.evaluate("(box, left) => { box.scrollLeft = left }", left)
        picture = Image.open(io.BytesIO(drawn.screenshot())).convert("L")
        shades.append([picture.getpixel((x, 3)) < 240 for x in (1, picture.width - 2)])
    assert shades == [[False, True], [True, True], [True, False]]
    context.close()


def test_formulas_are_set_in_the_font_that_comes_along(look):
    for path, page in look("studies", "conv2d"):
        page.evaluate("document.fonts.ready.then(() => 0)")
        client = page.context.new_cdp_session(page)
        client.send("DOM.enable")
        client.send("CSS.enable")
        root = client.send("DOM.getDocument")["root"]["nodeId"]
        signs = client.send("DOM.querySelectorAll", {"nodeId": root, "selector": "mi, mn, mo"})["nodeIds"]
        assert len(signs) > 20
        for sign in signs[:40]:
            fonts = client.send("CSS.getPlatformFontsForNode", {"nodeId": sign})["fonts"]
            used = {(font["familyName"], font["isCustomFont"]) for font in fonts}
            assert used == {("STIX Two Math", True)}, path
