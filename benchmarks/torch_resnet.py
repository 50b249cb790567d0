"""The CIFAR networks in PyTorch, for comparison: what a PyTorch user would write, with option A shortcuts."""

import torch
from torch import nn
from torch.nn import functional as F  # PyTorch's custom


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, padded with zeros where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.new_channels, self.residual = stride, channels - in_channels, residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.residual:
            if self.stride != 1:
                x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
            y = y + x
        return F.relu(y)


class ResNet(nn.Module):
    """6 n + 2 layers: a stem, three stages of n blocks, a classifier."""

    def __init__(self, n: int, residual: bool, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, channels = [], 16
        for width in (16, 32, 64):
            for j in range(n):
                blocks.append(BasicBlock(channels, width, 2 if width > 16 and j == 0 else 1, residual))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def create(name: str) -> ResNet:
    """``resnet20``, ``plain56`` and so on."""
    kind, depth = name.rstrip("0123456789"), int(name.lstrip("resntplai"))
    return ResNet((depth - 2) // 6, kind == "resnet")
