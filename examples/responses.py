"""How strong is what each layer of a residual net adds?

    python examples/responses.py

A net that is not trained answers here. `tinyres study responses` takes runs of your own.
"""

import tinyres as tr
from tinyres.study import responses


def main() -> None:
    images, labels = tr.data.shapes(64, size=16)
    mean, std = tr.data.channel_statistics(images)
    profiles = []
    for blocks in (1, 3):
        tr.manual_seed(0)
        net = tr.models.ResNet(tr.models.BasicBlock, [blocks] * 2, widths=(8, 16), shortcut="A")
        loader = tr.data.Loader(images, labels, 32, mean=mean, std=std)
        batches = [x for x, _ in loader.epoch(0)]
        for x in batches:
            net(tr.Tensor(x))  # running statistics
        net.eval()
        profiles.append(responses.Responses(f"{blocks} blocks a stage", responses.measure(net, batches)))
    print("\n".join(responses.verdict(profiles)))


if __name__ == "__main__":
    main()
