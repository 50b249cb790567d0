"""The paper's first experiment: deeper plain networks are worse, even in training error; deeper residual ones are not.

It repeats figures 1 and 6 of the paper, on any data and for any number of epochs. Each network is a separate training
run in its own folder, so a stopped experiment can be resumed.
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyres import data, models, plots, train
from tinyres.callback import Callback, Logs
from tinyres.evaluation import BATCH
from tinyres.files import CheckpointError, write_whole
from tinyres.runs import holds_run, read_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORKS = ("plain20", "plain56", "resnet20", "resnet56")
RECIPE: dict[str, Any] = {
    "epochs": 20,
    "lr": 0.1,
    "schedule": "steps",
    "warmup": 0.05,
    "nesterov": False,
    "weight_decay": 1e-4,
    "validation": 0,
}
"""The paper's (section 4.2), where the rate is divided by 10 at half and three quarters of the run. Warm-up is for nets
of 110 layers there, and here for all."""


class Curve(NamedTuple):
    """Errors of one network after each epoch, as parts of 1."""

    model: str
    train: list[float]  # over the epoch, on varied images, as in the paper
    test: list[float]


def degradation(
    config: train.Config, folder: str | Path, networks: tuple[str, ...] = NETWORKS, *callbacks: Callback
) -> list[Curve]:
    """Train networks with the same recipe, and measure their training and test errors after each epoch.

    Parameters
    ----------
    config : Config
        The recipe; its model is replaced.
    folder : str or Path
        It gets a run folder for each network, each with an additional file ``test.jsonl``. Existing runs are resumed.
    networks : tuple of str
        Names of the family.
    *callbacks : Callback
        Callbacks for all runs.

    Returns
    -------
    list of Curve

    Raises
    ------
    CheckpointError
        If the folder holds runs with another recipe, or damaged ones.
    Interrupted
        After SIGINT or SIGTERM. The current step has been finished and saved.

    Examples
    --------
    >>> import tempfile, tinyres as tr
    >>> recipe = tr.train.Config(dataset="shapes", **RECIPE | {"epochs": 1})
    >>> degradation(recipe, tempfile.mkdtemp(), ("plain20", "resnet20"))  # doctest: +SKIP
    """
    for name in networks:
        models.check_name(name)
    curves = []
    for name in networks:
        tested = _Tested()
        run = go_on(dataclasses.replace(config, model=name), Path(folder) / name, tested, *callbacks)
        curves.append(Curve(name, [1 - record["train_accuracy"] for record in run.history], tested.errors))
    return curves


def go_on(config: train.Config, folder: str | Path, *callbacks: Callback) -> train.Run:
    """Train to the end in a run folder: start, or resume its run, which must have this configuration.

    Raises
    ------
    CheckpointError
        If the folder holds a run with another configuration, or a damaged one.
    Interrupted
        After SIGINT or SIGTERM. The current step has been finished and saved.

    Examples
    --------
    >>> import tempfile, tinyres as tr
    >>> go_on(tr.train.Config(dataset="shapes", **RECIPE), tempfile.mkdtemp()).history[-1]  # doctest: +SKIP
    """
    if holds_run(folder) and (found := read_config(folder)) != config:
        differs = next(f.name for f in dataclasses.fields(found) if getattr(found, f.name) != getattr(config, f.name))
        raise CheckpointError(
            f"{folder}: holds a run with {differs} {getattr(found, differs)}, expected {getattr(config, differs)}: "
            "choose another folder, or the same options to go on"
        )
    run = train.Run(config, folder, resume=holds_run(folder))
    run.fit(*callbacks)
    return run


class _Tested(Callback):
    """Tests a run's network after each epoch, and keeps what came of it in the run's folder."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def on_train_begin(self, run: Any) -> None:
        self.path = run.folder / "test.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        try:
            self.errors = [float(json.loads(line)["test_error"]) for line in lines][: len(run.history)]
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{self.path}: expected a test error on each line ({error})") from error
        if len(self.errors) < len(run.history):  # killed between the epoch's checkpoint and its test
            self._test(run)

    def on_epoch_end(self, run: Any, logs: Logs) -> None:
        self._test(run)

    def _test(self, run: train.Run) -> None:
        loader = data.Loader(*run.data.test, BATCH, mean=run.data.mean, std=run.data.std, shuffle=False)
        self.errors.append(1 - train.evaluate(run.model, loader)[1])
        lines = (json.dumps({"epoch": i, "test_error": error}) for i, error in enumerate(self.errors, 1))
        write_whole(self.path, ("\n".join(lines) + "\n").encode())


def verdict(curves: list[Curve]) -> list[str]:
    """Sentences with results, one for each kind of network: the deepest compared with the shallowest, at the end."""
    sentences = []
    for kind in ("plain", "resnet"):
        nets = _by_depth(curves, kind)
        if len(nets) < 2:
            continue
        shallow, deep = nets[0], nets[-1]
        parts = []
        for split, a, b in (("training", shallow.train, deep.train), ("test", shallow.test, deep.test)):
            gap = 100 * (b[-1] - a[-1])
            word = "worse" if gap > 0 else "better"
            parts.append(
                f"{split} error {abs(gap):.2f} points {word} ({100 * b[-1]:.2f} % against {100 * a[-1]:.2f} %)"
            )
        sentences.append(f"{deep.model} beside {shallow.model}: {', '.join(parts)}.")
    return sentences


def _by_depth(curves: list[Curve], kind: str) -> list[Curve]:
    depths = {curve.model: curve.model.removeprefix(kind) for curve in curves}
    return sorted((c for c in curves if depths[c.model].isdigit()), key=lambda c: int(depths[c.model]))


def draw(curves: list[Curve]) -> "Figure":
    """Training error (dashed) and test error (solid) by epoch: plain nets on the left, residual nets on the right."""
    figure, axes = plots.subplots(1, 2, width=11, height=4.2, sharey=True)
    for axis, kind, colour, title in zip(
        axes, ("plain", "resnet"), (plots.PLAIN, plots.RESIDUAL), ("plain nets", "residual nets"), strict=True
    ):
        nets = _by_depth(curves, kind)
        for i, curve in enumerate(nets):
            epochs = range(1, len(curve.train) + 1)
            style = {"color": colour, "alpha": 1.0 if i == len(nets) - 1 else 0.45, "linewidth": 1 + i}
            axis.plot(epochs, [100 * e for e in curve.train], "--", **style)
            label = f"{curve.model}: {100 * curve.train[-1]:.1f} / {100 * curve.test[-1]:.1f} %"
            axis.plot(epochs, [100 * e for e in curve.test], "-", label=label, **style)
        axis.set(title=title, xlabel="epoch", ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)  # there is no epoch 2.5
        axis.margins(x=0.02)
        if nets:
            axis.legend(frameon=False)
    axes[0].set(ylabel="error (%)")
    figure.suptitle("Deeper, by one recipe: training error dashed, test error solid")
    return figure
