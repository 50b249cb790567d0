"""Loss landscapes: the loss around a trained network, in a plane of two random directions.

Li, Xu, Taylor, Studer and Goldstein, "Visualizing the loss landscape of neural nets", NeurIPS 2018: the minimum of a
deep plain network is sharp and rugged; that of a residual network of the same depth is wide and smooth.
"""

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from tinyres import plots, train
from tinyres.files import CheckpointError, digest, write_whole
from tinyres.nn import Module
from tinyres.study.trained import Trained
from tinyres.tape import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIGHEST = 20.0
"""The highest loss with a colour of its own, so that the colours show the bottom of the valley, not its far corners."""

Direction: TypeAlias = dict[str, Array]  # for each parameter name, an array of the parameter's shape


class Surface(NamedTuple):
    """Loss and error around a trained network, at (a, b) = (steps[i], steps[j])."""

    name: str
    steps: Array  # (P,), from -radius to radius; the trained network is in the middle, at 0
    losses: Array  # (P, P) float64, mean cross-entropy
    errors: Array  # (P, P) float64, between 0 and 1


# ---------------------------------------------------------------- what is measured
def filter_normalised(model: Module, seed: int) -> Direction:
    """A random direction in the space of the weights; each filter has the norm of the network's own filter.

    Parameters
    ----------
    model : Module
    seed : int
        Networks whose parameters have the same shapes get the same direction from a seed, apart from the norms.

    Returns
    -------
    dict
        For each parameter name, an array of the parameter's shape and dtype.

    Notes
    -----
    A filter is a convolution's weights for one output channel, or a linear layer's weights for one output. Each filter
    d is drawn from a normal distribution, and scaled to the norm of the network's filter w in the same place:

        d <- d ||w|| / ||d||                        (Li et al. 2018, section 4)

    Without this, networks cannot be compared: with batch norm the output does not depend on a filter's norm, so the
    same step is a large change of a network with small weights and a small change of one with large weights. Biases and
    batch norm's parameters get 0, as in the authors' code.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.nn.Linear(3, 2)
    >>> along = filter_normalised(net, seed=0)
    >>> bool(np.allclose(np.linalg.norm(along["weight"], axis=1), np.linalg.norm(net.weight.data, axis=1)))
    True
    >>> along["bias"]
    array([0., 0.], dtype=float32)
    """
    rng = np.random.default_rng(seed)
    direction = {}
    for name, parameter in model.named_parameters():
        w = parameter.data
        if w.ndim < 2:
            direction[name] = np.zeros_like(w)
            continue
        d, axes = rng.standard_normal(w.shape), tuple(range(1, w.ndim))
        lengths = np.sqrt(np.square(w, dtype=np.float64).sum(axes, keepdims=True))
        direction[name] = (d / np.sqrt(np.square(d).sum(axes, keepdims=True)) * lengths).astype(w.dtype)
    return direction


def grid(points: int, radius: float) -> Array:
    """This number of steps from -radius to radius, with 0.0 in the middle.

    Raises
    ------
    ValueError
        If the number is even or less than 5, or the radius is not a positive number.

    Examples
    --------
    >>> grid(5, 1.0)
    array([-1. , -0.5,  0. ,  0.5,  1. ])
    """
    if points < 5 or points % 2 == 0:
        raise ValueError(f"points: got {points}, expected 5, 7, 9, ...: the one in the middle is the trained network")
    if not 0 < radius < np.inf:
        raise ValueError(f"radius: got {radius}, expected a positive number; 1 is as long as the weights themselves")
    half = points // 2
    return radius * np.arange(-half, half + 1) / half


def landscape(
    net: Trained,
    directions: tuple[Direction, Direction],
    steps: Array,
    *,
    keep: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Surface:
    """Measure loss and error of a network at each point of a plane in weight space.

    Parameters
    ----------
    net : Trained
        Its weights are not changed by the measurement.
    directions : tuple of two dict
        See `filter_normalised`.
    steps : array of shape (P,)
        The steps along each direction, see `grid`.
    keep : str or Path, optional
        A file that stores the points after each row. If it exists, only the missing points are measured.
    progress : callable, optional
        Called with (points done, total points).

    Returns
    -------
    Surface

    Raises
    ------
    CheckpointError
        If the file `keep` is damaged.
    Interrupted
        On SIGINT or SIGTERM, after the current point was finished. With a file, it is kept.

    Notes
    -----
    With trained weights w and directions d and e, the surface is

        f(a, b) = L(w + (a d + b e))                (Li et al. 2018, equation 1)

    L is the mean loss over the images. Batch norm is in evaluation mode and uses the running statistics of the trained
    network, as in the authors' code: this is the loss of the network as it would be used.

    Examples
    --------
    >>> import tinyres as tr
    >>> images, labels = tr.data.shapes(20, size=8)
    >>> loader = tr.data.Loader(images, labels, 20, mean=np.full(3, 0.5), std=np.full(3, 0.25), shuffle=False)
    >>> model = tr.nn.Sequential(tr.nn.Flatten(), tr.nn.Linear(3 * 8 * 8, 10))
    >>> net = Trained("linear", model, loader, list(tr.data.SHAPES_CLASSES))
    >>> surface = landscape(net, (filter_normalised(model, 0), filter_normalised(model, 1)), grid(5, 1.0))
    >>> bool(surface.losses[2, 2] == tr.train.evaluate(model, loader)[0])
    True
    """
    total = len(steps) ** 2
    found = _kept(keep, total)
    own = {name: parameter.data for name, parameter in net.model.named_parameters()}
    try:
        with train.stop_signals() as stopped:
            for a, b in itertools.islice(itertools.product(steps, steps), len(found), None):
                for name, parameter in net.model.named_parameters():
                    d, e = directions[0][name], directions[1][name]
                    parameter.data = (own[name] + (a * d + b * e)).astype(own[name].dtype)
                loss, accuracy = train.evaluate(net.model, net.loader)
                found.append((loss, 1 - accuracy))
                if progress:
                    progress(len(found), total)
                stop = stopped()
                if keep is not None and (stop or len(found) % len(steps) == 0):  # after each row, since disks are slow
                    write_whole(keep, json.dumps(found).encode())
                if stop:
                    raise train.Interrupted
    finally:
        for name, parameter in net.model.named_parameters():
            parameter.data = own[name]
    losses, errors = np.array(found).reshape(len(steps), len(steps), 2).transpose(2, 0, 1)
    return Surface(net.name, steps, losses, errors)


def _kept(path: str | Path | None, most: int) -> list[tuple[float, float]]:
    if path is None or not Path(path).exists():
        return []
    try:
        found = [(float(loss), float(error)) for loss, error in json.loads(Path(path).read_text())]
        if len(found) > most:
            raise ValueError(f"got {len(found)} points, expected at most {most}")
        return found
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a loss and an error for each point ({error}): delete it") from error


def explore(
    nets: list[Trained],
    folder: str | Path,
    *,
    points: int = 25,
    radius: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int, int], None] | None = None,
) -> list[Surface]:
    """Measure the landscapes of several networks, in two directions each, and store the points in a folder.

    Each network has a file ``grid-KEY.json`` there. The key depends on everything that determines the numbers: weights,
    images, options. So a stopped measurement continues where it stopped, and other weights or options are measured
    anew.

    Parameters
    ----------
    nets : list of Trained
    folder : str or Path
    points : int
        Number of points along each direction; odd.
    radius : float
        Largest step, as a multiple of the norm of the weights.
    seed : int
        Seed of the directions.
    progress : callable, optional
        Called with (index of the network, points done, total points).

    Returns
    -------
    list of Surface

    Raises
    ------
    ValueError
        If the networks were trained on different data sets, so that their losses cannot be compared.
    Interrupted
        On SIGINT or SIGTERM, after the current point was finished and stored.
    """
    steps = grid(points, radius)
    for net in nets[1:]:
        if net.classes != nets[0].classes:
            raise ValueError(f"{net.name} and {nets[0].name}: expected networks that were trained on one data set")
    seeds = [int(n) for n in np.random.SeedSequence(seed).generate_state(2)]
    surfaces = []
    for k, net in enumerate(nets):
        first, second = (filter_normalised(net.model, n) for n in seeds)
        path = Path(folder) / f"grid-{_key(net, steps, seed)[:12]}.json"
        told = progress and partial(progress, k)
        surfaces.append(landscape(net, (first, second), steps, keep=path, progress=told))
    return surfaces


def _key(net: Trained, steps: Array, seed: int) -> str:
    """A digest of everything that a surface depends on."""
    arrays = {f"model.{name}": array for name, array in net.model.state_dict().items()}
    arrays |= {name: getattr(net.loader, name) for name in ("images", "labels", "mean", "std")}
    return digest(arrays | {"steps": steps}, {"model": repr(net.model), "seed": str(seed)})


# ---------------------------------------------------------------- results in numbers
class Sharpness(NamedTuple):
    """A landscape, described by a few numbers."""

    name: str
    loss: float  # loss of the trained network
    error: float
    distances: list[float]  # distances from it: 0, one step, two steps, ... radius
    mean: list[float]  # mean loss at these distances: over the points that are nearest to them
    least: list[float]
    most: list[float]
    basin: float  # part of the grid whose loss is at most 1 above that of the trained network
    bent: float  # part of the inner grid that is not convex

    def rise(self, distance: float) -> float:
        """How much the mean loss rises from the trained network to a distance; linear interpolation between steps.

        Examples
        --------
        >>> Sharpness("a", 0.0, 0.0, [0.0, 0.5, 1.0], [0.0, 0.5, 2.0], [], [], 0.0, 0.0).rise(0.75)
        1.25
        """
        return float(np.interp(distance, self.distances, self.mean)) - self.loss


def sharpness(surface: Surface) -> Sharpness:
    """Measure how steeply the loss rises around the trained network, and how much of the plane is not convex.

    Returns
    -------
    Sharpness

    Notes
    -----
    A point is not convex if the smaller eigenvalue of the Hessian is negative. Here it is the 2 x 2 Hessian in the
    plane, by central differences; Li et al., section 6, use the Hessian of all weights.

    Examples
    --------
    >>> a, b = np.meshgrid(steps := grid(9, 1.0), steps, indexing="ij")
    >>> bowl, saddle = (sharpness(Surface("", steps, f, a)) for f in (4 * (a**2 + b**2), 4 * (a**2 - b**2)))
    >>> bowl.bent, saddle.bent
    (0.0, 1.0)
    >>> f"{bowl.basin:.2f} of the plane"  # about pi (1/2)^2 / 2^2
    '0.16 of the plane'
    """
    losses, half = surface.losses, len(surface.steps) // 2
    index = np.arange(len(surface.steps)) - half
    ring = np.hypot(index[:, None], index).round().astype(int)  # (P, P), distance from the middle in whole steps
    rings = [losses[ring == k] for k in range(half + 1)]
    f = losses
    with np.errstate(invalid="ignore"):  # a loss may be infinite; such points count as not convex
        aa = f[2:, 1:-1] - 2 * f[1:-1, 1:-1] + f[:-2, 1:-1]
        bb = f[1:-1, 2:] - 2 * f[1:-1, 1:-1] + f[1:-1, :-2]
        ab = (f[2:, 2:] - f[2:, :-2] - f[:-2, 2:] + f[:-2, :-2]) / 4
        smaller = (aa + bb) / 2 - np.hypot((aa - bb) / 2, ab)
    return Sharpness(
        name=surface.name,
        loss=float(losses[half, half]),
        error=float(surface.errors[half, half]),
        distances=[float(step) for step in surface.steps[half:]],
        mean=[float(values.mean()) for values in rings],
        least=[float(values.min()) for values in rings],
        most=[float(values.max()) for values in rings],
        basin=float((losses <= losses[half, half] + 1).mean()),
        bent=float((~(smaller >= 0)).mean()),
    )


def verdict(found: list[Sharpness]) -> list[str]:
    """Compare each network with the first, half-way to the edge, in sentences."""
    first, *others = found
    half = first.distances[-1] / 2
    sentences = []
    for other in others:
        rises = first.rise(half), other.rise(half)
        text = f"At distance {half:g} the loss of {first.name} rises by {rises[0]:.2f}, that of {other.name} by "
        text += f"{rises[1]:.2f}"
        if min(rises) > 0:
            word = "flatter" if rises[0] > rises[1] else "steeper"
            text += f": {other.name} is {word} by a factor of {max(rises) / min(rises):.1f}"
        sentences.append(
            f"{text}. Within 1 of the trained network are {first.basin:.0%} of the plane of {first.name}, "
            f"{other.basin:.0%} of that of {other.name}; not convex are {first.bent:.0%} and {other.bent:.0%}."
        )
        if abs(first.loss - other.loss) > 0.5:
            sentences.append(
                f"But they are not equally well trained, with losses of {first.loss:.2f} and {other.loss:.2f}: a "
                "network that has learnt little lies on a plateau, which is flat as well."
            )
    return sentences


def draw(surfaces: list[Surface]) -> "Figure":
    """Contours of each loss, on one scale, and beside them the rise of the loss with the distance from the middle."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter

    n = len(surfaces)
    figure, axes = plots.subplots(1, n + 1, width=3.6 * (n + 1) + 0.6, height=4.1)
    finite = np.concatenate([s.losses[np.isfinite(s.losses)] for s in surfaces])
    low = max(finite.min(), 1e-3)
    high = min(max(finite.max(), 2 * low), max(HIGHEST, 4 * low))
    levels = np.geomspace(low * 0.999, high, 20)  # slightly less, so that the lowest point is included
    labels = [v for e in range(-3, 7) for v in (10.0**e, 2 * 10.0**e, 5 * 10.0**e)]
    colours = [plots.PLAIN if "plain" in surface.name else plots.RESIDUAL for surface in surfaces]
    for k, (axis, surface) in enumerate(zip(axes, surfaces, strict=False)):
        measured, steps = sharpness(surface), surface.steps
        radius = steps[-1]
        heights = np.clip(np.nan_to_num(surface.losses.T, nan=np.inf), low, 1e6)  # as [y, x], like matplotlib
        norm = LogNorm(levels[0], levels[-1])
        filled = axis.contourf(steps, steps, heights, levels, cmap="viridis", norm=norm, extend="max")
        axis.contour(steps, steps, heights, levels[::2], colors="black", linewidths=0.3, alpha=0.4)
        axis.contour(steps, steps, heights, [measured.loss + 1], colors="white", linewidths=1.8)
        axis.plot(0, 0, "+", color="white", markersize=11, markeredgewidth=1.8)
        ticks = [-radius, -radius / 2, 0, radius / 2, radius]
        axis.set(aspect="equal", xlabel="first direction", xticks=ticks, yticks=ticks)
        axis.set_title(
            f"{surface.name}: loss {measured.loss:.2f}, error {100 * measured.error:.1f} %", color=colours[k]
        )
        axis.grid(visible=False)
        rises = measured.distances, measured.mean, measured.least, measured.most
        distances, mean, least, most = (np.array(values) for values in rises)
        axes[-1].plot(
            distances,
            mean,
            color=colours[k],
            linestyle=("-", "--", ":")[colours[:k].count(colours[k]) % 3],
            label=surface.name,
        )
        axes[-1].fill_between(distances, least, most, color=colours[k], alpha=0.15, linewidth=0)
    axes[0].set(ylabel="second direction")
    bar = figure.colorbar(
        filled,
        ax=axes[:n],
        ticks=[v for v in labels if low <= v <= high],
        format=FuncFormatter("{:g}".format),
        shrink=0.8,
        pad=0.02,
    )
    bar.ax.minorticks_off()
    axes[-1].set(xlabel="distance from the trained network", ylabel="loss", yscale="log", xlim=(0, None))
    axes[-1].set(title="mean, and least to most", box_aspect=1)
    axes[-1].set_yticks(labels, [f"{v:g}" for v in labels])
    axes[-1].set_ylim(0.8 * low, 5 * high)
    axes[-1].minorticks_off()
    axes[-1].legend(frameon=False, loc="upper left")
    figure.suptitle("Loss around trained networks (+), in lengths of the weights; the white line is 1 above")
    return figure
