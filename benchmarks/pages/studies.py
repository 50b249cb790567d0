"""Tables and pictures of docs/studies.md: what was found with all seeds, from the smallest number to the largest."""

from collections import defaultdict
from typing import Any

import studies
from pages.writing import Table, between, head, row

from tinyres.study import batch_norm, gradient_flow, identity_path, skip_path
from tinyres.study.probe import Moment

TWO = "{:.2f}".format


# ---------------------------------------------------------------- tables
def flows() -> Table:
    """The part of the gradient's norm that one layer keeps, and that all layers keep, at initialisation."""
    found = defaultdict(list)
    for line in studies.read("gradient-flow"):
        for net in line["numbers"]["networks"]:
            layers = [gradient_flow.Layer(**layer) for layer in net["moments"][0]["measured"]]
            found[net["model"], net["variant"]].append(gradient_flow.whole(layers))
    yield from head("", "factor of one layer", "product of all layers")
    for (model, variant), pairs in found.items():
        products, means = zip(*pairs, strict=True)
        yield row(f"`{model}`, {variant}", between(means, TWO), between(products))


def norms() -> Table:
    """The factor of all layers for the gradient, with batch norm and without."""
    products = defaultdict(list)
    for line in studies.read("batch-norm"):
        for point in line["numbers"]["points"]:
            products[point["model"], point["batch_norm"], point["scale"]].append(point["product"])
    yield from head("", "batch norm", "weights half as large", "as in the paper", "twice as large")
    for name, norm in dict.fromkeys((name, norm) for name, norm, _ in products):
        cells = [between(products[name, norm, scale]) for scale in (0.5, 1.0, 2.0)]
        yield row(f"`{name}`", "yes" if norm else "no", *cells)


def identity() -> Table:
    """The part of the norm that the identity path keeps in each stage, and its share of the whole."""
    stages = defaultdict(lambda: defaultdict(list))
    for line in studies.read("identity-path"):
        for net in line["numbers"]["networks"]:
            for stage in net["moments"][0]["measured"]:
                for name in ("kept", "share"):
                    stages[net["model"]][name].append(stage[name])
    yield from head("", "norm that is kept", "share of the whole gradient")
    for model, found in stages.items():
        yield row(f"`{model}`", *(between(found[name], TWO) for name in ("kept", "share")))


def splits() -> Table:
    """The gradient at the forks of `resnet56`: its part through the shortcut, divided by that through the branch."""
    yield from head("", "ratio, geometric mean of all blocks", "ratio in one block", "cosine in one block")
    for place, when in ((0, "at the start"), (-1, "after 100 steps")):
        moments = [line["numbers"]["moments"][place] for line in studies.read("skip-path")]
        blocks = [[skip_path.Split(**split) for split in moment["measured"]] for moment in moments]
        ratios, each = [skip_path.typical(splits) for splits in blocks], [s for splits in blocks for s in splits]
        cells = between(ratios, TWO), between((s.ratio for s in each if s.ratio), TWO)
        yield row(when, *cells, between((s.cosine for s in each), TWO))


def quotients() -> Table:
    """The accuracy of a difference quotient of `exp`: the best step, its error, and slopes."""
    curves = [line["numbers"]["curves"]["exp"] for line in studies.read("gradcheck")]
    yield from head("`exp`", "best step", "its error", "central", "forward", "round-off")
    for dtype in ("float64", "float32"):
        some = [curve[dtype] for curve in curves]
        slopes = [
            between(found, TWO) if None not in (found := [c["slopes"][kind] for c in some]) else "-"
            for kind in ("central", "forward", "round-off")
        ]
        yield row(dtype, *(between(c[name] for c in some) for name in ("best_step", "best_error")), *slopes)


# ---------------------------------------------------------------- pictures
def draw_norms() -> Any:
    """Draw the first seed."""
    line = studies.read("batch-norm")[0]
    return batch_norm.draw([batch_norm.Point(**point) for point in line["numbers"]["points"]])


def draw_identity() -> Any:
    """Draw the first seed."""
    nets = studies.read("identity-path")[0]["numbers"]["networks"]
    paths = []
    for net in nets:
        moments = [
            Moment(m["step"], m["loss"], [identity_path.Stage(**stage) for stage in m["measured"]])
            for m in net["moments"]
        ]
        paths.append(identity_path.Path(net["model"], net["depth"], moments))
    return identity_path.draw(paths)
