"""The how-to pages, the reference of commands, and the glossary say what is there: options, extras, pictures, files."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from tinyres import cli, models
from tinyres.files import CONVERT

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOWTO = sorted((DOCS / "howto").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    *HOWTO,
    *(DOCS / f"{name}.md" for name in ("commands", "faq", "parallel", "recipes", "studies", "gym")),
]


# ---------------------------------------------------------------- command lines
def in_blocks(text):
    """Lines of shell and text blocks that call `tinyres`, without prompts, comments and variables before it."""
    for block in re.findall(r"^```(?:sh|bash|text|console)?\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if called := re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )?(?:(?:mpiexec|srun)\b.*? )?(tinyres(?:\s+\D.*)?)$", line):
                yield called[1]


def in_text(text):
    """Commands within a sentence or a table; those with an ellipsis or a placeholder stand for many."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for words in re.findall(r"`(?:[A-Z_]+=\S+ |mpiexec -n \d )?(tinyres [^`]*)`", prose):
        if not re.search(r"\.\.\.|COMMAND|study NAME", words):
            yield re.sub(r"\bN\b", "1", words)


def mistake(line):
    """What is wrong with a command line, as `tinyres` would say when it parses it; nothing is run."""
    words = shlex.split(line.replace("$run", "run"), comments=True)[1:]
    command, name = get_command(cli.app), "tinyres"
    while words and words[0] in getattr(command, "commands", {}):
        command, name = command.commands[words[0]], f"{name} {words.pop(0)}"
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        return f"{name}: no command {words[0]}"
    if (not words and command.no_args_is_help) or {"--help", "--install-completion"} & set(words):
        return ""  # answered while it is parsed
    if words[-1:] == ["--json"]:  # to the terminal, as `Commands` has it
        words[-1] = "--json=-"
    try:
        named = command.make_context(name, words).params
    except cli.UsageError as error:
        return f"{name}: {error.format_message()}"
    return "" if named.get("model") in (None, "NAME", *models.FAMILY) else f"no model {named['model']}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_command_lines_are_understood(path):
    text = path.read_text()
    assert [wrong for line in in_blocks(text) if (wrong := mistake(line))] == []
    for line in in_text(text):  # a sentence may leave out what it is not about
        assert not (wrong := mistake(line)) or re.search("Missing argument|requires an argument", wrong), line


@pytest.mark.parametrize(
    "line",
    [
        "tinyres trian",
        "tinyres train --epoch 3",
        "tinyres train --epochs three",
        "tinyres train --model resnet21",
        "tinyres study gradflow",
        "tinyres eval",
    ],
)
def test_a_command_line_that_is_wrong_is_noticed(line):
    assert mistake(line)


def test_there_are_command_lines():
    found = [line for path in HOWTO for line in in_blocks(path.read_text())]
    assert len(found) > 30
    assert {line.split()[1] for line in found} >= {
        "train",
        "eval",
        "predict",
        "export",
        "verify",
        "warmup",
        "compare",
    } - {"compare"}


# ---------------------------------------------------------------- what pages list
def rows(text, heading):
    """First cells of the table whose head begins with this word."""
    table = re.search(rf"^\| {heading} \|.*?\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)[1]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_all_extras_are_listed_with_their_packages():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = {cells[0].strip("`"): cells[1] for cells in rows((DOCS / "howto/install.md").read_text(), "extra")}
    assert set(listed) == set(extras)
    for name, packages in extras.items():
        for package in packages:
            bare = re.match(r"[\w-]+", package)[0]
            assert bare == "tinyres" or bare in listed[name], f"{name}: {bare}"
        if name != "dev":  # whose row begins with "all of these"
            assert len(listed[name].split(", ")) == len(packages), name


def test_python_of_the_install_page_is_that_of_the_package():
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    for page in ("howto/install.md", "faq.md"):
        assert f"Python {least} or newer" in (DOCS / page).read_text()


def test_each_picture_has_its_command_and_each_script_is_there():
    text = (DOCS / "howto/figures.md").read_text()
    listed = {re.search(r"\.\./([\w-]+\.png)", cells[0])[1]: cells[1] for cells in rows(text, "picture")}
    assert set(listed) == {path.name for path in DOCS.glob("*.png")}
    assert all("`" in command for command in listed.values())
    for script in re.findall(r"\b(?:benchmarks|reliability|examples)/[\w./-]+\w", text):
        assert (ROOT / script).exists(), script
    for results in (ROOT / "benchmarks" / "results").iterdir():
        assert f"`benchmarks/results/{results.name}`" in text, results


def test_every_how_to_page_says_what_to_do_when_it_goes_wrong_and_is_in_the_index():
    index = (DOCS / "howto/index.md").read_text()
    for path in HOWTO:
        if path.stem != "index":
            assert "\n## If it goes wrong\n" in path.read_text(), path
            assert f"{{doc}}`{path.stem}`" in index, path
            assert f"\n{path.stem}\n" in index, path


def test_every_page_has_words_to_be_found_by():
    for path in [*HOWTO, DOCS / "faq.md", DOCS / "glossary.md", DOCS / "commands.md"]:
        words = re.match(r'---\nmyst:\n  html_meta:\n    keywords: "([^"]+)"\n---\n# ', path.read_text())[1]
        assert all(re.fullmatch(r"\w+", word) for word in words.split(", ")), path  # Sphinx looks for single words


def test_the_line_that_converts_a_pth_file_is_the_one_of_the_message():
    shown = re.search(r"python -c '\n(.*?)\n' (.*)", (DOCS / "howto/finetune.md").read_text(), re.S)
    code, names = re.fullmatch(r"python -c '(.*)' (.*)", CONVERT).groups()
    assert shown[1].splitlines() == code.split("; ")
    assert shown[2].startswith(names)


# ---------------------------------------------------------------- the reference
@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("command_reference", DOCS / "extensions" / "command_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def every_command(command=None, name="tinyres"):
    command = command or get_command(cli.app)
    yield name, command
    for below, of in getattr(command, "commands", {}).items():
        yield from every_command(of, f"{name} {below}")


def test_every_command_and_option_is_in_the_reference(reference):
    sections = dict(re.findall(r"^#+ (tinyres[\w -]*)\n(.*?)(?=^#|\Z)", reference.reference(), re.M | re.S))
    names = [name for name, _ in every_command()]
    assert list(sections) == names
    assert len(names) >= 26
    for name, command in every_command():
        for parameter in command.params:
            words = [*parameter.opts, *parameter.secondary_opts]
            where = re.search(rf"^````{{option}} .*{re.escape(words[0])}\b.*\n(.*)\n````$", sections[name], re.M)
            assert where, f"{name} {words}"
            for word in words:
                assert word in where[0]
        assert "--help" in sections[name]
        assert "program} " + name + "\n" in sections[name]


def test_the_reference_says_defaults_and_choices_as_they_are(reference):
    section = reference.reference().partition("\n## tinyres train\n")[2].partition("\n## ")[0]

    def entry(option):
        return re.search(rf"^````{{option}} {option}[ ,].*\n(.*)\n````$", section, re.M)[1]

    assert entry("--epochs").endswith("Default: `10`.")
    assert entry("--nesterov").endswith("Default: `--nesterov`.")
    assert "Default" not in entry("--out")  # the help says it in words
    assert "One of `default`, `fast`, `finetune`, `paper`, `record`." in entry("--recipe")
    assert "One of" not in entry("--optimizer")  # "sgd or adamw" are there
    assert "{ref}`names of models <model-names>`" in entry("--model")
    assert "At least 0." in entry("--recompute")
    predict = reference.reference().partition("\n## tinyres predict\n")[2].partition("\n## ")[0]
    assert "````{option} images\n" in predict
    assert "Any number of them. Required." in predict


def test_text_of_the_reference_is_markdown_that_shows_what_was_written(reference):
    assert reference.text("a `--b` c_d * <e> --f.") == r"a `--b` c\_d \* \<e\> `--f`."


# ---------------------------------------------------------------- the glossary
def test_the_words_of_the_site_are_explained_once():
    text = (DOCS / "glossary.md").read_text()
    terms = [
        line
        for block in re.findall(r"```{glossary}\n(.*?)```", text, re.S)
        for line in re.findall(r"^\w.*", block, re.M)
    ]
    assert len(terms) == len(set(terms)) > 60
    wanted = """tape, pullback, vector-Jacobian product, leaf, logits, im2col, tile, Winograd, shortcut, bottleneck,
        downsample, batch norm, running mean, weight decay, momentum, one-cycle, warm-up, label smoothing, epoch, step,
        batch, seed, shard, rank, recompute, checkpoint, replay, gradcheck, kink, mutant, shrink, channels-last, SIMD,
        AVX2, AVX-512, JIT cache, recipe, run"""
    assert set(re.split(r",\s+", wanted)) <= set(terms)
