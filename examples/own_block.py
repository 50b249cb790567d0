"""A block of your own in a ResNet, without touching the library.

    python examples/own_block.py

`ResNet` takes any module class with the signature ``(in_channels, channels, stride, downsample)`` and an `expansion`.
This one puts a squeeze-and-excitation gate on the residual branch (Hu et al., "Squeeze-and-excitation networks", 2018):
each channel of F(x) is multiplied by a number between 0 and 1 that depends on the channel means of F(x).
"""

import numpy as np

import tinyres as tr
from tinyres.models import BasicBlock, ResNet


class GatedBlock(BasicBlock):
    """y = relu(s(F(x)) F(x) + x), with the gate s = sigmoid(W2 relu(W1 mean(F(x))))."""

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, downsample: tr.nn.Module | None = None
    ) -> None:
        super().__init__(in_channels, channels, stride, downsample)
        self.squeeze = tr.nn.Linear(channels, channels // 4)
        self.excite = tr.nn.Linear(channels // 4, channels)

    def forward(self, x: tr.Tensor) -> tr.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn1(self.conv1(x), relu=True)
        y = self.bn2(self.conv2(y))  # F(x): (N, C, H, W)
        means = tr.ops.flatten(tr.ops.global_avg_pool2d(y))  # (N, C)
        gate = tr.ops.sigmoid(self.excite(tr.ops.relu(self.squeeze(means))))  # (N, C)
        return tr.ops.relu(y * gate.reshape(*gate.shape, 1, 1) + shortcut)


def main() -> None:
    tr.manual_seed(0)
    net = ResNet(GatedBlock, [1, 1, 1], widths=(16, 32, 64), shortcut="B")
    print(f"{sum(p.size for p in net.parameters()):,} parameters")

    images, labels = tr.data.shapes(512)
    mean, std = tr.data.channel_statistics(images)
    loader = tr.data.Loader(images, labels, 64, mean=mean, std=std)
    optimizer = tr.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(3):
        losses = []
        for x, y in loader.epoch(epoch):
            optimizer.zero_grad()
            loss = tr.ops.cross_entropy(net(tr.Tensor(x)), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}")


if __name__ == "__main__":
    main()
