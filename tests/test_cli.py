"""The command line as a whole: help, numbers as JSON, processes and signals, names, and completion.

What its commands do is in test_cli_train, test_cli_predict and test_cli_profile.
"""

import inspect
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.table import Table
from support.commands import TINY, TRAIN, bad, good, tinyres
from support.json_keys import check_keys
from support.public import commands
from typer.testing import CliRunner

import tinyres as tr
from tinyres import checkpoints, cli, models, progress, train
from tinyres import console as console_module
from tinyres.study import gym

pytestmark = pytest.mark.usefixtures("small_world")


# ---------------------------------------------------------------- help
@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["lr-find"],
        ["recipes"],
        ["eval"],
        ["compare"],
        ["predict"],
        ["export"],
        ["summary"],
        ["profile"],
        ["warmup"],
        ["verify"],
    ],
)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(command, option):
    text = good(*command, option)
    assert "Usage" in text
    assert "--help" in text


@pytest.mark.parametrize("command", [["train"], ["predict"], ["study", "degradation"]])
def test_help_breaks_lines_where_the_terminal_ends(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = good(*command, "--help").split("╭")[0]
    paragraphs = [paragraph.splitlines() for paragraph in text.split("\n" + " " * 80 + "\n")[1:]]
    assert max(map(len, paragraphs)) > 1  # one at least is longer than a line
    for lines in paragraphs:
        for line, after in itertools.pairwise(line.strip() for line in lines):
            assert len(line) + 1 + len(after.split()[0]) > 78, f"{line!r} has room for {after.split()[0]!r}"


def grouped(*command):
    """The options of a command by the heading that its help has them under."""
    found, panel = {}, None
    for line in good(*command, "--help").splitlines():
        if heading := re.match(r"╭─ (.*?) ─", line):
            panel = found.setdefault(heading[1], set())
        elif option := re.match(r"│ +(--[a-z-]+)", line):
            panel.add(option[1])
    return found


def test_each_option_stands_under_a_heading(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    panels = grouped("train")
    assert list(panels) == ["Options", "Data", "Model", "Recipe", "Variation of images", "Run", "Machine"]
    named = [option for options in panels.values() for option in options]
    assert len(named) == len(set(named))
    assert len(named) == len(dict(commands(typer.main.get_command(cli.app)))["train",].params) + 1
    assert {"--dataset", "--subset"} <= panels["Data"]
    assert {"--recipe", "--lr", "--zero-init-residual"} <= panels["Recipe"]
    assert {"--out", "--resume", "--seed"} <= panels["Run"]
    for path, command in commands(typer.main.get_command(cli.app)):
        options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
        if len(options) > 8:
            assert grouped(*path)["Options"] == {"--help"}, path


def test_no_command_shows_help():
    result = tinyres()
    assert "Usage" in result.output
    assert "train" in result.output


def test_version():
    assert good("--version") == f"tinyres {tr.__version__}, kernels for {tr.machine.simd()}\n"


# ---------------------------------------------------------------- JSON
@pytest.fixture
def tables(run, tmp_path):
    """What prints a table, but for studies; and cells of it, of the numbers."""
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    other = shutil.copytree(run, tmp_path / "other")
    best = run / "best.safetensors"
    return {
        "summary": (["tiny"], lambda n: [f"{n['parameters']:,}", f"{n['layers'][0]['multiply_adds']:,}"]),
        "summary of blocks": (
            ["--compare", "basic,plain"],
            lambda n: [f"{cost['parameters']:,}" for cost in n["blocks"]["basic"]],
        ),
        "recipes": ([], lambda n: [recipe["name"] for recipe in n]),
        "eval": ([best], lambda n: [f"{n['accuracy']:.2%}", f"{n['loss']:.4f}", f"{n['calibration_error']:.2%}"]),
        "compare": ([run, other], lambda n: [f"{r['test_loss']:.4f}" for r in n["runs"]]),
        "predict": ([best, "a.png"], lambda n: [f"{top['class']} {top['probability']:.1%}" for top in n[0]["top"]]),
        "profile": (
            ["tiny", "--batch-size", 2, "--steps", 1],
            lambda n: [f"{1000 * n['step_seconds']:,.2f}", *(total["kind"] for total in n["totals"])],
        ),
    }


def keys(found):
    """All but the values, of which some are times."""
    if isinstance(found, dict):
        return {key: keys(value) for key, value in found.items()}
    return [keys(value) for value in found] if isinstance(found, list) else type(found)


NAMED = ["summary", "summary of blocks", "recipes", "eval", "compare", "predict", "profile"]


@pytest.mark.usefixtures("ceilings")
@pytest.mark.parametrize("name", NAMED)
def test_numbers_of_tables_as_json(tables, tmp_path, name):
    """In a file beside the text, or alone on the terminal, with nothing rounded that the text rounds."""
    words, cells = tables[name]
    command = [name.split()[0], *words]
    text = good(*command, "--json", "numbers.json")
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    check_keys(f"tinyres {name}", numbers)
    assert cells(numbers)
    for cell in cells(numbers):
        assert cell in text
    alone = [json.loads(good(*command, *form)) for form in (["--json", "-"], ["--json"])]
    for found in alone:
        assert (keys(found) == keys(numbers)) if name == "profile" else (found == numbers)
    good(*command, "--json", "numbers.json")  # once more, over what is there
    assert good(*command)[:20] == text[:20]  # nothing stays as it was for the terminal


def test_every_table_is_to_be_had_as_json(tables):
    """Where a command's file draws tables, it has the option, and a test above or in test_study_json."""
    assert set(tables) == set(NAMED)
    with_json, with_tables = set(), set()
    for path, command in commands(typer.main.get_command(cli.app)):
        if "gym" in path:  # whose other commands have no tables, in the same file
            continue
        if any("--json" in parameter.opts for parameter in command.params):
            with_json.add(path)
        if "Table(" in inspect.getsource(inspect.getmodule(command.callback)):
            with_tables.add(path)
    assert with_json == with_tables
    tested = {name.split()[0] for name in NAMED} | {"lr-find"}  # which tells its progress, and has a test of its own
    assert tested == {path[0] for path in with_json if path[0] != "study"}


def test_json_has_no_nan():
    found = {"loss": float("nan"), "rise": [float("inf"), -float("inf"), 0.1 + 0.2]}
    text = console_module.json_text(found)
    assert json.loads(text) == {"loss": None, "rise": [None, None, 0.1 + 0.2]}
    assert "NaN" not in text


def test_json_alone_sends_notes_to_stderr_and_puts_the_console_back(tmp_path):
    with console_module.errors(), console_module.numbers_to(console_module.Path("-")) as take:
        assert console_module.out.file is sys.stderr
        take({})
        assert console_module.out.quiet
    assert console_module.out.file is sys.stdout
    assert not console_module.out.quiet
    with pytest.raises(KeyError), console_module.numbers_to(console_module.Path("-")):
        raise KeyError
    assert console_module.out.file is sys.stdout


def test_json_does_not_take_the_place_of_a_picture(run, tmp_path):
    """`predict ... --json a.png b.png`, with the picture where the file's name belongs."""
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    message = bad("predict", run / "best.safetensors", "--json", "a.png", "a.png")
    assert "--json: got a.png, which exists and is not a .json file; expected a new file, or a .json file" in message
    assert (tmp_path / "a.png").read_bytes() == before
    assert "--json: got none/a.json, expected a file in a folder that exists" in bad("recipes", "--json", "none/a.json")


# ---------------------------------------------------------------- real processes
def process(*arguments, **options):
    code = TINY + "from tinyres.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_process_trains_and_fails_with_the_right_codes(tmp_path):
    out, err = (done := process(*TRAIN, "--out", tmp_path / "run")).communicate(timeout=300)
    assert (done.returncode, err) == (0, "")
    assert "Test accuracy" in out
    out, err = (done := process(*TRAIN, "--out", tmp_path / "run")).communicate(timeout=300)
    assert (done.returncode, out) == (1, "")
    assert err.startswith("Error: ")
    assert len(err.strip().splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals to processes are not the same on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_process_that_is_stopped_saves_and_says_how_to_go_on(tmp_path, number):
    running = process(*TRAIN, "--epochs", "100000", "--out", tmp_path / "run")
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert running.poll() is None, running.communicate()
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "")
    step, total = map(int, re.search(r"Stopped and saved at step (\d+) of (\d+)", out).groups())
    assert 0 < step < total
    assert checkpoints.load(tmp_path / "run" / "last.safetensors")[1]["step"] == step


@pytest.mark.skipif(os.name == "nt", reason="signals to processes are not the same on Windows")
def test_ctrl_c_while_it_starts_leaves_without_a_traceback():
    """Wherever it comes: modules are loaded for a second before a command can hear of it."""
    code = "import sys; sys.argv = ['tinyres', 'summary', 'resnet20']; import tinyres_command; "
    code += "sys.addaudithook(lambda name, arguments: name == 'import' and arguments[0] == 'tinyres.cli' and "
    code += "print(flush=True)); tinyres_command.main()"  # from when it begins to load
    for delay in (0, 0.1, 0.3, 0.6, 1):
        command = [sys.executable, "-c", code]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert running.stdout.readline() == "\n"
        time.sleep(delay)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
        assert running.returncode in (130, 0, -signal.SIGINT)  # the last where Python has put its handlers away already
        assert "Traceback" not in err


def test_second_ctrl_c_is_announced_and_leaves_with_130(tmp_path, monkeypatch):
    step = progress.ProgressBar.on_batch_end

    def stop(self, run, *arguments):
        step(self, run, *arguments)
        if run.step == 6:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(progress.ProgressBar, "on_batch_end", stop)
    result = tinyres(*TRAIN, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "Finishing the step, and saving. Ctrl-C again stops at once, and loses 2 steps." in result.stdout
    assert result.stderr == "Stopped.\n"


@pytest.mark.parametrize(("terminal", "cached"), [(True, False), (True, True), (False, False)])
def test_kernels_are_announced_once_and_to_those_who_look(tmp_path, monkeypatch, terminal, cached):
    to = console_module.console(100)
    to.file, ran = io.StringIO(), []
    monkeypatch.setattr(to, "_force_terminal", terminal)
    monkeypatch.setattr(console_module, "out", to)
    monkeypatch.setattr(console_module, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(console_module.warmup, "steps", lambda: iter([("one", lambda: ran.append(1))]))
    if cached:  # as Numba has it: in a folder for each source
        (tmp_path / "kernels_0" / "norm.nbi").parent.mkdir()
        (tmp_path / "kernels_0" / "norm.nbi").touch()
    console_module.prepare_kernels()
    assert ("Compiling kernels, once" in to.file.getvalue()) == bool(ran) == (terminal and not cached)


# ---------------------------------------------------------------- names that look like something else
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0\r\n", exclude_categories=["C", "Z"]), min_size=1)


@given(NAMES | st.sampled_from(["[lr=0.1]", "[red]cat", "d[", "[/x]", ":smile:", "it's", "$HOME", "a b", "-x"]))
def test_names_are_printed_as_they_are_and_hints_are_for_the_shell(name):
    file = io.StringIO()
    to = console_module.console(10**4)
    to.file = file
    to.print(name, soft_wrap=True)
    table = Table("image")
    table.add_row(name)
    to.print(table)
    assert file.getvalue().startswith(name + "\n")
    assert f" {name} " in file.getvalue()
    assert shlex.split(console_module.shell("tinyres", "train", "--out", name)) == ["tinyres", "train", "--out", name]


def test_folders_classes_and_pictures_with_brackets(run, tmp_path):
    folder = tmp_path / "runs" / "[lr=0.1] $x"
    text = good(*TRAIN, "--out", folder)
    assert f"Run folder: {folder}\n" in text
    assert f"({folder / 'best.safetensors'})" in text
    picture = tmp_path / "d[" / "x].png"
    picture.parent.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(picture)
    assert str(picture) in good("predict", run / "best.safetensors", picture)  # whole, where it is no terminal
    missing = tmp_path / "[/x].png"
    assert f"Error: {missing}" in bad("predict", run / "best.safetensors", missing)


def test_validation_that_diverges_fails(tmp_path):
    with np.errstate(all="ignore"):
        text = bad(*TRAIN, "--out", tmp_path / "run", "--lr", "1e6")
    assert "became" in text
    assert "Try a lower rate" in text


def test_terminals_that_know_ascii_alone(run, tmp_path):
    """Every name is printed, as its code points where it must be; nothing fails over a progress bar or a frame."""
    Image.new("RGB", (16, 16)).save(tmp_path / "katze-äöü.png")
    code = TINY + "from tinyres.cli import main; main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    for arguments in (
        ["predict", run / "best.safetensors", "katze-äöü.png"],
        ["predict", run / "best.safetensors", "nicht-äöü.png"],
        ["train", "--help"],
    ):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        found = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
        assert b"Traceback" not in found.stderr
        text = (found.stdout + found.stderr).decode("ascii")
        if "predict" in arguments:
            assert re.search(r"-(\\[a-z0-9]+)+\.png", text)
        assert found.returncode == int("nicht-äöü.png" in arguments), text


@pytest.mark.parametrize("module", ["tinyres", "tinyres.cli"])
def test_python_m_tinyres(module):
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"tinyres {tr.__version__}, kernels for {tr.machine.simd()}\n")


# ---------------------------------------------------------------- completion
COMPLETE = {
    "bash": lambda words: {"COMP_WORDS": " ".join(["tinyres", *words]), "COMP_CWORD": str(len(words))},
    "zsh": lambda words: {"_TYPER_COMPLETE_ARGS": " ".join(["tinyres", *words])},
    "fish": lambda words: {
        "_TYPER_COMPLETE_ARGS": " ".join(["tinyres", *words]), "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    },
}  # fmt: skip
"""What each shell's script, as `tinyres --show-completion` prints it, tells of the words so far."""


def completed(*words):
    environment = {"_TINYRES_COMPLETE": "complete_bash", **COMPLETE["bash"](words)}
    result = CliRunner().invoke(cli.app, [], env=environment, prog_name="tinyres")
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--model", "resnet1"], [name for name in models.FAMILY if name.startswith("resnet1")]),
        (["train", "--recipe", ""], tr.recipes.names()),
        (["train", "--dataset", ""], ["auto", "folder", *train.DATASETS]),
        (["train", "--optimizer", "a"], ["adamw"]),
        (["train", "--schedule", ""], list(train.SCHEDULES)),
        (["train", "--stem", ""], list(models.STEMS)),
        (["train", "--shortcut", "A"], ["A", "A-after"]),
        (["train", "--detect"], ["--detect-anomaly"]),
        (["eval", "a.safetensors", "--split", "v"], ["validation"]),
        (["profile", "resnet20", "--sort", "back"], ["backward"]),
        (["summary", "preact_resnet110"], ["preact_resnet110"]),
        (["summary", "--compare", "basic,bo"], ["basic,bottleneck"]),
        (["recipes", "pa"], ["paper"]),
        (["study", "gradcheck", "exp", "conv"], ["conv2d"]),
        (["study", "gradient-flow", "plain20", "--activation", "s"], ["sigmoid"]),
        (["study", "degradation", "--networks", "plain20,plain5"], ["plain20,plain56"]),
        (["study", "explain", "plain18"], ["plain18"]),
        (["train", "--out", ""], [""]),  # nothing of ours: a shell then looks for files
        (["train", "--model", "no"], [""]),
    ],
)
def test_shells_complete_what_is_known(words, expected):
    assert completed(*words) == expected


def test_what_completes_is_taken():
    """Levels by name; and each optimizer that is offered is one."""
    for name in completed("study", "gym", "start", ""):
        assert gym.find(name).name == name
    for name in completed("train", "--optimizer", ""):
        assert train.Config(optimizer=name).optimizer == name


@pytest.mark.parametrize("shell", COMPLETE)
def test_the_installed_command_completes(shell, tmp_path):
    """By the variables that each shell's script sets. Nothing is compiled for it."""
    code = "import sys, tinyres_command; sys.argv = ['tinyres']; tinyres_command.main()"
    variables = {"_TINYRES_COMPLETE": f"complete_{shell}", **COMPLETE[shell](["train", "--schedule", "co"])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **variables, "TINYRES_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"[\w-]{5,}", done.stdout.replace("_arguments", "")) == ["cosine", "constant"]
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash on this machine")
def test_bash_completes_by_the_script_that_is_shown(tmp_path):
    command = tmp_path / "tinyres"
    command.write_text(f"#!{sys.executable}\nfrom tinyres_command import main\nmain()\n")
    command.chmod(0o755)
    typed = 'eval "$(tinyres --show-completion bash)"; COMP_WORDS=(tinyres train --optimizer ""); COMP_CWORD=3; '
    typed += '_tinyres_completion tinyres; echo "${COMPREPLY[@]}"'
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        ["bash", "--norc", "-c", typed], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert (done.stdout, done.stderr) == ("sgd adamw\n", "")
