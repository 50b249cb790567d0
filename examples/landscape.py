"""The loss around a trained network: change its weights in two random directions.

    python examples/landscape.py

A small net is trained for a short time with shortcuts, and another one without. `tinyres study landscape` does this
with networks of 56 layers, or with runs of your own.
"""

import tinyres as tr
from tinyres import plots
from tinyres.models import BasicBlock, PlainBlock, ResNet
from tinyres.study import landscape, trained


def main() -> None:
    images, labels = tr.data.shapes(128, size=16)
    mean, std = tr.data.channel_statistics(images)

    surfaces = []
    for name, block in ("plain", PlainBlock), ("residual", BasicBlock):
        tr.manual_seed(0)
        model = ResNet(block, [2, 2], widths=(8, 16), shortcut="A")
        optimizer = tr.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        loader = tr.data.Loader(images, labels, 32, mean=mean, std=std, seed=0)
        for epoch in range(30):
            optimizer.set_lr(0.05 * (1 - epoch / 30))  # small steps at the end make running means accurate
            for x, y in loader.epoch(epoch):
                optimizer.zero_grad()
                tr.ops.cross_entropy(model(tr.Tensor(x)), y).backward()
                optimizer.step()

        measured_on = tr.data.Loader(images, labels, 128, mean=mean, std=std, shuffle=False)
        net = trained.Trained(name, model, measured_on, list(tr.data.SHAPES_CLASSES))
        directions = landscape.filter_normalised(model, seed=1), landscape.filter_normalised(model, seed=2)
        surfaces.append(landscape.landscape(net, directions, landscape.grid(points=11, radius=1.0)))

    for sentence in landscape.verdict([landscape.sharpness(surface) for surface in surfaces]):
        print(sentence)
    plots.save(landscape.draw(surfaces), "landscape.png")
    print("Written: landscape.png")


if __name__ == "__main__":
    main()
