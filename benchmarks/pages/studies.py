"""Tables and pictures of docs/studies.md: what was found with all seeds, from the smallest number to the largest."""

from collections import defaultdict
from collections.abc import Callable
from operator import attrgetter as of
from typing import Any

import numpy as np
import studies
from measuring import Spread
from pages.writing import Table, between, head, row

from tinyres.study import (
    batch_norm,
    bottleneck,
    degradation,
    gradcheck,
    gradient_flow,
    identity_path,
    landscape,
    memory,
    responses,
    skip_path,
    warm_up,
)
from tinyres.study.probe import Moment

ONE, TWO = "{:.1f}".format, "{:.2f}".format


# ---------------------------------------------------------------- tables
def machines() -> Table:
    """Where each study's stored figures were measured."""
    yield from head("study", "seeds", "processor", "instructions", "threads")
    for name in sorted(path.stem.removeprefix("study-") for path in studies.RESULTS.glob("study-*.jsonl")):
        seeds: dict[tuple[str, ...], list[int]] = {}
        for line in studies.read(name):
            machine = line["machine"]
            what = next((option for option in line["options"] if option == "resnet1202"), "")
            place = machine["processor"], machine["simd"], str(machine["threads"])
            seeds.setdefault((f"{name}, `{what}`" if what else name, *place), []).append(line["seed"])
        for (study, *place), some in seeds.items():
            yield row(study, ", ".join(map(str, dict.fromkeys(some))), *place)


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


def held() -> Table:
    """What checkpoints trade: the memory of a step, and its time."""
    yield from head("in a checkpoint", "after forward, MiB", "peak, MiB", "step, s", "of the first")
    everything, *_ = steps = _steps()
    for step in steps:
        counts = (f"{count / 2**20:.1f}" for count in (step.after_forward, step.peak))
        times = f"{np.median(step.seconds) / np.median(everything.seconds):.2f}"
        yield row(memory.name(step.segment), *counts, str(Spread.of(step.seconds)), times)


def deeper() -> Table:
    """Errors of plain and residual nets after the last epoch."""
    errors = defaultdict(lambda: defaultdict(list))
    for line in studies.read("degradation"):
        for curve in line["numbers"]["curves"]:
            for split in ("train", "test"):
                errors[curve["model"]][split].append(100 * curve[split][-1])
    yield from head("", "training error, %", "test error, %")
    for model, found in errors.items():
        yield row(f"`{model}`", *(between(found[split], ONE) for split in ("train", "test")))


def around() -> Table:
    """The loss around trained networks, with one pair of directions for each seed."""
    found = defaultdict(list)
    for line in studies.read("landscape"):
        for net in line["numbers"]["networks"]:
            found[net["name"]].append(landscape.Sharpness(**{name: net[name] for name in landscape.Sharpness._fields}))
    yield from head("", "loss", "rise at distance 0.5", "rise at distance 1", "within 1, %", "not convex, %")
    for name, nets in found.items():
        rises = (between((net.rise(distance) for net in nets), "{:+.2f}".format) for distance in (0.5, 1.0))
        parts = (between((100 * part(net) for net in nets), "{:.0f}".format) for part in (of("basin"), of("bent")))
        yield row(f"`{name}`", between((net.loss for net in nets), TWO), *rises, *parts)


def strengths() -> Table:
    """Standard deviations of the responses of trained networks."""
    found = defaultdict(list)
    for line in studies.read("responses"):
        for net in line["numbers"]["networks"]:
            found[net["model"]].append([layer["std"] for layer in net["layers"]])
    yield from head("", "layers", "smallest", "mean", "largest")
    for model, nets in found.items():
        yield row(f"`{model}`", str(len(nets[0])), *(between(map(size, nets), TWO) for size in (min, np.mean, max)))


def starts() -> Table:
    """The first steps with the full learning rate, and with a tenth of it at first."""
    found = defaultdict(list)
    for line in studies.read("warm-up"):
        for curve in line["numbers"]["curves"]:
            found[curve["model"], curve["warm_up"]].append(curve)
    below_limit = "steps until the training error is below 80 %"
    yield from head("", "seeds", "steps", "warm-up", below_limit, "error of the last 50 batches, %")
    for (model, slow), curves in found.items():
        steps = [warm_up.converged(curve["errors"]) for curve in curves]
        below = [f"{n}" for n in (min(reached), max(reached))] if (reached := [n for n in steps if n]) else []
        words = " to ".join(dict.fromkeys(below)) or "never"
        last = between((100 * warm_up.smooth(curve["errors"])[-1] for curve in curves), ONE)
        taken = between((len(curve["errors"]) for curve in curves), str)
        yield row(f"`{model}`", str(len(curves)), taken, "yes" if slow else "no", words, last)


def _steps() -> list[memory.Step]:
    return [
        memory.Step(
            step["segment"],
            [memory.Moment(**moment) for moment in step["moments"]],
            [memory.Kept(**kept) for kept in step["kept"]],
            step["seconds"],
        )
        for step in first("memory")["steps"]
    ]


# ---------------------------------------------------------------- pictures, of the first seed
def first(study: str) -> dict[str, Any]:
    numbers: dict[str, Any] = studies.read(study)[0]["numbers"]
    return numbers


def moments(found: dict[str, Any], kind: Callable[..., Any]) -> list[Moment[list[Any]]]:
    """What `probe.as_dicts` has written."""
    return [Moment(m["step"], m["loss"], [kind(**row) for row in m["measured"]]) for m in found["moments"]]


def draw_deeper() -> Any:
    return degradation.draw([degradation.Curve(**curve) for curve in first("degradation")["curves"]])


def draw_flows() -> Any:
    lines = [line for line in studies.read("gradient-flow") if line["seed"] == 0]
    return gradient_flow.draw(
        [
            gradient_flow.Flow(net["model"], net["variant"], moments(net, gradient_flow.Layer))
            for line in lines
            for net in line["numbers"]["networks"]
        ]
    )


def draw_norms() -> Any:
    return batch_norm.draw([batch_norm.Point(**point) for point in first("batch-norm")["points"]])


def draw_identity() -> Any:
    nets = first("identity-path")["networks"]
    return identity_path.draw(
        [identity_path.Path(net["model"], net["depth"], moments(net, identity_path.Stage)) for net in nets]
    )


def draw_splits() -> Any:
    return skip_path.draw("resnet56", moments(first("skip-path"), skip_path.Split))


def draw_quotients() -> Any:
    numbers = first("gradcheck")
    return gradcheck.draw(
        [
            gradcheck.Errors(op, **about, curves={k: gradcheck.Curve(**c) for k, c in numbers["curves"][op].items()})
            for op, about in numbers["operations"].items()
        ]
    )


def draw_held() -> Any:
    return memory.draw(_steps())


def draw_blocks() -> Any:
    """Counted, not measured: nothing is stored."""
    return bottleneck.draw(bottleneck.bottleneck())


def draw_around() -> Any:
    numbers = first("landscape")
    steps = landscape.grid(numbers["points"], numbers["radius"])
    return landscape.draw(
        [
            landscape.Surface(net["name"], steps, np.array(net["losses"], float), np.array(net["errors"], float))
            for net in numbers["networks"]
        ]
    )


def draw_strengths() -> Any:
    return responses.draw(
        [
            responses.Responses(net["model"], [responses.Response(**layer) for layer in net["layers"]])
            for net in first("responses")["networks"]
        ]
    )


def draw_starts() -> Any:
    return warm_up.draw([warm_up.Curve(**curve) for curve in first("warm-up")["curves"]])
