"""Imports only point down: files are ordered simple to complex, and reading down the tree reads up the ideas."""

import ast
from pathlib import Path

import pytest

import tinyres

PACKAGE = Path(tinyres.__file__).parent
ROOT = Path(__file__).parents[1]

# From the bottom. What shares a floor does not import each other. A new file gets a floor here.
FLOORS = [
    {"kernels"},
    {"reference"},
    {"backend"},
    {"machine", "readonly", "version"},
    {"tape"},
    {"arraylike", "extras", "chance", "flops", "html", "rules", "spelling"},
    {"tensor"},
    {"files", "parallel"},
    {"plots"},
    {"recompute"},
    {"ops"},
    {"testing"},
    {"nn"},
    {"create"},
    {"models"},
    {"export"},
    {"onnx_operators"},
    {"onnx_import"},
    {"average", "optim", "replay", "schedule"},
    {"data"},
    {"checkpoints"},
    {"recipe", "curves", "evaluation", "stopping"},
    {"recipes", "runs", "callback", "splits", "start"},
    {"classifier", "loop", "progress"},
    {"lr_range", "train"},
    {"callbacks"},
    {"trainer"},
    {"sklearn"},
    {"verify"},
    {"profile", "console"},
    {"study"},
    {"timeline"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
KERNELS = [
    {"ahead", "arrays", "interrupt", "isa", "launch", "traced", "whole"},
    {"emit", "threads"},
    {"compile", "layout", "memory"},
    {"simd"},
    {"moments", "pending"},
    {"filters", "groups", "tile"},
    {"conv"},
    {"weight_grad"},
    {"winograd.plan", "winograd.maps"},
    {"winograd.transforms", "winograd.products"},
    {"im2col", "winograd.__init__", "elementwise", "norm", "pool", "image"},
    {"update"},
    {"__init__"},
    {"warmup"},
]

FOLDERS = ["tinyres", "benchmarks", "reliability", "examples", "docs/extensions", "docs/figures"]
LONG = 450  # lines
# What has more than eight parameters, and why. No more than eight of them are taken by place.
MANY = {
    "tinyres/data/loader.py: Loader.__init__": "as in PyTorch's DataLoader, each a choice of its own",
    "tinyres/kernels/image.py: augment_batch": "all that is drawn for a batch: nothing is random in a kernel",
    "tinyres/kernels/norm.py: batch_norm_grad": "what one pass reads, and what the forward pass did with it",
    "tinyres/kernels/update.py: adamw_update": "the numbers of the paper's algorithm",
    "tinyres/kernels/winograd/plan.py: plan_of": "sizes alone, so that a plan is found again by them",
    "tinyres/models/resnet.py: ResNet.__init__": "the columns of the table of models",
    "tinyres/ops/conv.py: conv2d": "PyTorch's, and what can be done in the same pass",
    "tinyres/ops/norm.py: batch_norm": "PyTorch's, and what can be done in the same pass",
    "tinyres/reference.py: batch_norm_grad": "those of the kernel",
    "tinyres/reference.py: adamw_update": "those of the kernel",
    "tinyres/sklearn.py: ResNetClassifier.__init__": "scikit-learn searches over parameters by their names",
}


def modules(package=PACKAGE):
    """Dotted name below tinyres -> its source."""
    return {
        ".".join(path.relative_to(package).with_suffix("").parts): path.read_text()
        for path in sorted(package.rglob("*.py"))
    }


def imported(name, source):
    """Dotted names below tinyres of the modules that a module imports, anywhere in it. `name` is its own."""
    parent = ["tinyres", *name.split(".")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = parent[: len(parent) - node.level + 1] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in names:
            if target.split(".")[0] == "tinyres":
                yield as_module(target.split(".")[1:])


def as_module(parts):
    """The longest beginning of a dotted name that is a module: the rest names something in it."""
    for count in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:count])
        if path.with_suffix(".py").exists():
            return ".".join(parts[:count])
        if path.is_dir():
            return ".".join([*parts[:count], "__init__"])
    return "__init__"


def floor(part, floors):
    return next(i for i, names in enumerate(floors) if part in names)


def wrong_imports(sources):
    for name, source in sources.items():
        top, _, rest = name.partition(".")
        for target in imported(name, source):
            target_top, _, target_rest = target.partition(".")
            if target_top != top:
                up = floor(target_top, FLOORS) >= floor(top, FLOORS)
            else:
                up = top == "kernels" and floor(target_rest, KERNELS) >= floor(rest, KERNELS)
            if up:
                yield f"{name} imports {target}"


def python(*folders):
    """Path below the repository -> its source. Beside an installed package there is no more than the package."""
    found = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in found}


def functions(node, *path):
    """The dotted name of each function in a syntax tree, and its arguments."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from functions(child, *path)
            continue
        if not isinstance(child, ast.ClassDef):
            yield ".".join([*path, child.name]), child.args
        yield from functions(child, *path, child.name)


def test_no_function_has_more_than_eight_parameters():
    """Who reads a call could not tell them apart. A command has a parameter for each of its options."""
    found = set()
    for path, source in python(*FOLDERS).items():
        if path.startswith(("tinyres/cli/", "tinyres/study/commands/")):
            continue
        for name, args in functions(ast.parse(source)):
            by_place = [arg for arg in args.posonlyargs + args.args if arg.arg not in ("self", "cls")]
            assert len(by_place) <= 8, f"{path}: {name}"
            if len(by_place + args.kwonlyargs) > 8:
                found.add(f"{path}: {name}")
    assert found - MANY.keys() == set(), "take fewer, or say in MANY why not"
    assert MANY.keys() - found == set(), "no longer needed in MANY"


def test_a_long_file_says_why_it_is():
    long = {path: source for path, source in python(*FOLDERS, "tests").items() if len(source.splitlines()) > LONG}
    silent = {path for path, source in long.items() if "is long because" not in ast.get_docstring(ast.parse(source))}
    assert silent == set(), f"more than {LONG} lines: split them, or say at their heads why not"


def test_imports_point_down():
    assert list(wrong_imports(modules())) == []


def test_every_file_has_a_floor():
    for name in modules():
        top, _, rest = name.partition(".")
        assert any(top in names for names in FLOORS), f"{name} has no floor"
        if top == "kernels":
            assert any(rest in names for names in KERNELS), f"{name} has no floor among the kernels"


def test_kernels_know_nothing_of_autograd():
    for name, source in modules().items():
        if name.startswith("kernels."):
            assert all(target.split(".")[0] == "kernels" for target in imported(name, source)), name


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("tape", "from tinyres.tensor import Tensor"),
        ("tape", "from tinyres import tensor"),
        ("tape", "def f():\n    import tinyres.nn.layers"),
        ("tape", "import tinyres"),
        ("tape", "from tinyres import Tensor"),
        ("__init__", "from tinyres import cli"),
        ("tape", "from . import ops"),
        ("ops.conv", "from ..nn import Module"),
        ("ops.conv", "from ..testing.gradcheck import gradcheck"),
        ("optim", "from tinyres import schedule"),
        ("kernels.conv", "from tinyres.kernels.norm import batch_norm_apply"),
        ("kernels.conv", "from .norm import batch_norm_apply"),
        ("kernels.simd", "from tinyres.kernels import conv"),
        ("kernels.simd", "from tinyres import backend"),
        ("data.loader", "from tinyres.train import train"),
    ],
)
def test_imports_that_point_up_are_found(name, source):
    assert len(list(wrong_imports({name: source}))) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ops.conv", "from tinyres import backend\nfrom tinyres.ops import _check\nimport numpy"),
        ("nn.layers", "from ..tensor import Tensor\nfrom . import init"),
        ("kernels.norm", "from tinyres.kernels.layout import channels_last"),
        ("kernels.warmup", "from tinyres.kernels import conv2d"),
        ("cli", "from tinyres import __version__, train"),
    ],
)
def test_imports_that_point_down_are_not(name, source):
    assert list(wrong_imports({name: source})) == []
