"""The experiment behind residual networks: train nets of two depths, without shortcuts and with them.

    python examples/degradation.py

This takes half a minute, and only shows how it is done. To see the paper's effect, use CIFAR-10, depths 20 and 56, and
an hour: `tinyres study degradation` does this.
"""

from tinyres import plots, train
from tinyres.study import degradation


def main() -> None:
    recipe = train.Config(**degradation.RECIPE | {"dataset": "shapes", "subset": 200, "epochs": 2, "batch_size": 50})
    curves = degradation.degradation(recipe, "degradation", ("plain20", "resnet20"))  # a second run only reads it
    for curve in curves:
        train_errors = ", ".join(f"{error:.0%}" for error in curve.train)
        print(f"{curve.model}: training error {train_errors} after each epoch, test error {curve.test[-1]:.0%}")

    plots.save(degradation.draw(curves), "degradation/degradation.png")
    print("Written: degradation/degradation.png")


if __name__ == "__main__":
    main()
