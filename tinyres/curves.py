"""A picture of the loss and accuracy of a run, by epoch."""

import io


def curves(history: list[dict[str, float]], title: str) -> bytes | None:
    """A PNG of loss and accuracy by epoch, or None if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return None
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    epochs = [record["epoch"] for record in history]
    for axes, name, scale in zip(figure.subplots(1, 2), ("loss", "error"), (1, 100), strict=True):
        for split, colour in (("train", "tab:blue"), ("validation", "tab:orange")):
            key = f"{split}_{'loss' if name == 'loss' else 'accuracy'}"
            if all(key in record for record in history):
                values = [record[key] if name == "loss" else 1 - record[key] for record in history]
                axes.plot(epochs, [scale * v for v in values], marker="o", markersize=3, color=colour, label=split)
        axes.set(xlabel="epoch", ylabel="loss" if name == "loss" else "error (%)", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # there is no epoch 1.25
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
