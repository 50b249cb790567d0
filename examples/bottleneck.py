"""Why ResNet-50 has bottlenecks: their cost beside two 3x3 convolutions, as numbers and a picture.

python examples/bottleneck.py
"""

from tinyres import plots
from tinyres.study import bottleneck


def main() -> None:
    costs = bottleneck.bottleneck(image_size=224)
    for basic, other in zip(costs["basic"], costs["bottleneck"], strict=True):
        less = basic.parameters / other.parameters
        print(f"{basic.width:4} channels: {basic.parameters:>10,} weights or {other.parameters:>7,}, {less:.1f} x less")

    plots.save(bottleneck.draw(costs), "bottleneck.png")
    print("Written: bottleneck.png")


if __name__ == "__main__":
    main()
