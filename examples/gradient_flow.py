"""The vanishing gradient, measured: how much of it is left at the first of 18 layers.

    python examples/gradient_flow.py

With sigmoids and without batch norm, each layer keeps less than a third of the gradient's norm. With shortcuts it keeps
more, and with ReLU and batch norm the gradient does not vanish.
"""

from typing import Any

import tinyres as tr
from tinyres.study import gradient_flow, probe


def main() -> Any:
    config = tr.train.Config(dataset="shapes", batch_size=32, **probe.RECIPE)
    data = tr.train.load_data(config)
    flows = []
    for model in ("plain20", "resnet20"):
        for activation, batch_norm in (("sigmoid", False), ("relu", True)):
            flow = gradient_flow.gradient_flow(model, config, data, activation=activation, batch_norm=batch_norm)
            at_start = flow.moments[0].measured  # one entry for each convolution
            product, per_layer = gradient_flow.whole(at_start)
            print(f"{flow.title}: {per_layer:.2f} per layer, {product:.1e} in all")
            flows.append(flow)
    return gradient_flow.draw(flows)  # a matplotlib figure


if __name__ == "__main__":
    main().savefig("gradient-flow.png")
