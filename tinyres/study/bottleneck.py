"""The cost of bottlenecks: 1x1, 3x3 and 1x1 convolutions compared with two 3x3 ones (section 4.1 of the paper)."""

from typing import TYPE_CHECKING

from tinyres import plots
from tinyres.models.summary import Cost, compare_blocks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"parameters": "parameters", "multiply_adds": "multiply-adds", "activation_bytes": "activation (bytes)"}


def bottleneck(image_size: int = 224) -> dict[str, list[Cost]]:
    """The cost of basic blocks and bottlenecks at equal width, in the four stages of ResNet-50.

    Parameters
    ----------
    image_size : int
        Height and width of the network's images in pixels.

    Returns
    -------
    dict
        ``"basic"`` and ``"bottleneck"``: a `Cost` for each of four stages.

    Notes
    -----
    With w channels, and without batch norm and biases, two 3x3 convolutions have 2 * 9 w^2 weights; a bottleneck has
    w^2/4 + 9 (w/4)^2 + w^2/4 = 17/16 w^2, fewer by a factor of 288/17 = 16.9. So ResNet-50 affords more layers and
    four times the channels of ResNet-34 for about the same work.

    Examples
    --------
    >>> costs = bottleneck()
    >>> costs["basic"][0].multiply_adds / costs["bottleneck"][0].multiply_adds
    16.941176470588236
    """
    return compare_blocks(["basic", "bottleneck"], image_size)


def draw(costs: dict[str, list[Cost]]) -> "Figure":
    """Bars of the parameters (logarithmic), multiply-adds and activation of a block in each stage."""
    figure, axes = plots.subplots(1, len(TITLES), width=11, height=3.8)
    wide = 0.8 / len(costs)
    for axis, (kind, title) in zip(axes, TITLES.items(), strict=True):
        for k, (name, stages) in enumerate(costs.items()):
            places = [i + (k - (len(costs) - 1) / 2) * wide for i in range(len(stages))]
            colour = (plots.PLAIN, plots.RESIDUAL)[k]
            axis.bar(places, [getattr(cost, kind) for cost in stages], wide, label=name, color=colour)
        for i, (basic, other) in enumerate(zip(*costs.values(), strict=True)):
            ratio, top = getattr(basic, kind) / getattr(other, kind), max(getattr(c, kind) for c in (basic, other))
            axis.annotate(f"{ratio:.1f} x", (i, top), (0, 3), textcoords="offset points", ha="center", fontsize=9)
        stages = next(iter(costs.values()))
        axis.set_xticks(range(len(stages)), [f"{cost.width} ch\n{cost.size} px" for cost in stages])
        axis.set(yscale="log" if kind == "parameters" else "linear", title=title)
        axis.margins(y=0.15)
        axis.grid(axis="x", visible=False)
    axes[0].legend(loc="upper left", frameon=False)
    figure.suptitle("One block, at equal width: two 3x3 convolutions, and 1x1, 3x3, 1x1")
    return figure
