"""The experiment that residual networks come from: train nets of two depths, without shortcuts and with them.

    python examples/degradation.py

This takes half a minute, and is too short to show more than how it is done. For the paper's effect give it CIFAR-10,
depths 20 and 56, and an hour: `tinyres study degradation` does that.
"""

from tinyres import plots, train
from tinyres.study import degradation


def main():
    recipe = train.Config(**degradation.RECIPE | {"dataset": "shapes", "subset": 200, "epochs": 2, "batch_size": 50})
    curves = degradation.degradation(recipe, "degradation", ("plain20", "resnet20"))  # run again, it is only read
    for curve in curves:
        train_errors = ", ".join(f"{error:.0%}" for error in curve.train)
        print(f"{curve.model}: training error {train_errors} after each epoch, test error {curve.test[-1]:.0%}")

    plots.save(degradation.draw(curves), "degradation/degradation.png")
    print("Written: degradation/degradation.png")


if __name__ == "__main__":
    main()
