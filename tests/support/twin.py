"""The family once more, in PyTorch, written from torchvision's definition and the papers, not from tinyres."""

import torch
from torch import nn
from torch.nn import functional as F  # PyTorch's custom


def conv(i, o, kernel, stride=1, groups=1):
    return nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)


gates: list[torch.Tensor] | None = None  # where the next ReLUs are open; with None, they see for themselves
places: list[torch.Tensor] | None = None  # pixels that the next max-pools take; with None, the largest


def relu(x):
    if gates is None:
        return F.relu(x, inplace=True)  # as torchvision does
    gate = gates.pop(0)
    doubtful = x.detach()[gate != (x > 0)]  # what others see otherwise must be 0 but for rounding
    # up to 5e-5 was seen with direct convolution, whose rounding is a third to a fifth of Winograd's
    assert not doubtful.numel() or doubtful.abs().max() < 3e-4 * x.detach().square().mean().sqrt()
    return x * gate


def max_pool(x, *window):
    if places is None:
        return F.max_pool2d(x, *window)
    place = places.pop(0)
    taken = x.flatten(2).gather(2, place.flatten(2)).view(place.shape)
    short = (F.max_pool2d(x, *window) - taken).detach()  # of the largest: 0 but for rounding
    assert short.max() < 3e-4 * x.detach().square().mean().sqrt()
    return taken


class Basic(nn.Module):
    expansion = 1

    def __init__(self, i, planes, stride, downsample):
        super().__init__()
        self.conv1, self.bn1 = conv(i, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x):
        out = relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return relu(out + (x if self.downsample is None else self.downsample(x)))


class Plain(Basic):
    def forward(self, x):
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))


class Pooled(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv, self.bn = conv(i, o, 3), nn.BatchNorm2d(o)

    def forward(self, x):
        return relu(self.bn(max_pool(self.conv(x), 2)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, i, planes, stride, downsample, groups=1, base_width=64, v1=False):
        super().__init__()
        width = int(planes * (base_width / 64.0)) * groups
        self.conv1, self.bn1 = conv(i, width, 1, stride if v1 else 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, 1 if v1 else stride, groups), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, planes * 4, 1), nn.BatchNorm2d(planes * 4)
        self.downsample = downsample

    def forward(self, x):
        out = relu(self.bn1(self.conv1(x)))
        out = relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return relu(out + (x if self.downsample is None else self.downsample(x)))


class PreAct(nn.Module):
    expansion, preact = 1, True

    def __init__(self, i, planes, stride, downsample, first=False):
        super().__init__()
        self.bn1 = None if first else nn.BatchNorm2d(i)
        self.conv1, self.bn2 = conv(i, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.downsample = conv(planes, planes, 3), downsample

    def forward(self, x):
        a = x if self.bn1 is None else relu(self.bn1(x))
        return (x if self.downsample is None else self.downsample(a)) + self.conv2(relu(self.bn2(self.conv1(a))))


class PreActBottleneck(nn.Module):
    expansion, preact = 4, True

    def __init__(self, i, planes, stride, downsample, first=False):
        super().__init__()
        self.bn1 = None if first else nn.BatchNorm2d(i)
        self.conv1, self.bn2 = conv(i, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn3 = conv(planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv3, self.downsample = conv(planes, planes * 4, 1), downsample

    def forward(self, x):
        a = x if self.bn1 is None else relu(self.bn1(x))
        out = self.conv2(relu(self.bn2(self.conv1(a))))
        return (x if self.downsample is None else self.downsample(a)) + self.conv3(relu(self.bn3(out)))


class Pad(nn.Module):
    """Option A."""

    def __init__(self, new, stride):
        super().__init__()
        self.new, self.stride = new, stride

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))


class ResNet(nn.Module):
    def __init__(self, block, layers, num_classes, stem, planes, shortcut, inplanes=None, pool=False, **options):
        super().__init__()
        self.large, self.stages, preact = stem == "imagenet", [], hasattr(block, "preact")
        inplanes = inplanes or planes[0]
        self.conv1 = nn.Conv2d(3, inplanes, *((7, 2, 3) if self.large else (3, 1, 1)), bias=False)
        self.bn1 = nn.BatchNorm2d(inplanes)
        for s, (width, count) in enumerate(zip(planes, layers, strict=True)):
            blocks = []
            if pool:
                blocks.append(Pooled(inplanes, width))
                inplanes = width
            for j in range(count):
                stride, out = 2 if s and not j and not pool else 1, width * block.expansion
                changes, downsample = stride != 1 or inplanes != out, None
                if shortcut == "C" or (shortcut == "B" and changes):
                    norm = [] if preact else [nn.BatchNorm2d(out)]
                    downsample = nn.Sequential(conv(inplanes, out, 1, stride), *norm)
                elif shortcut == "A" and changes:
                    downsample = Pad(out - inplanes, stride)
                first = {"first": not s and not j} if preact else {}
                blocks.append(block(inplanes, width, stride, downsample, **options, **first))
                inplanes = out
            self.stages.append(f"layer{s + 1}")
            setattr(self, self.stages[-1], nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(inplanes) if preact else None
        self.fc = nn.Linear(inplanes, num_classes)

    def forward(self, x):
        x = relu(self.bn1(self.conv1(x)))
        x = max_pool(x, 3, 2, 1) if self.large else x
        for stage in self.stages:
            x = getattr(self, stage)(x)
        x = x if self.norm is None else relu(self.norm(x))
        return self.fc(x.mean((2, 3)))


def cifar(block, n, shortcut):
    return block, [n, n, n], "cifar", (16, 32, 64), shortcut, {}


def imagenet(block, layers, shortcut="B", **options):
    return block, layers, "imagenet", (64, 128, 256, 512), shortcut, options


L18, L34, L101, L152 = [2, 2, 2, 2], [3, 4, 6, 3], [3, 4, 23, 3], [3, 8, 36, 3]
MODELS = {
    "resnet20": cifar(Basic, 3, "A"),
    "resnet32": cifar(Basic, 5, "A"),
    "resnet44": cifar(Basic, 7, "A"),
    "resnet56": cifar(Basic, 9, "A"),
    "resnet110": cifar(Basic, 18, "A"),
    "resnet1202": cifar(Basic, 200, "A"),
    "plain20": cifar(Plain, 3, None),
    "plain32": cifar(Plain, 5, None),
    "plain44": cifar(Plain, 7, None),
    "plain56": cifar(Plain, 9, None),
    "preact_resnet20": cifar(PreAct, 3, "A"),
    "preact_resnet56": cifar(PreAct, 9, "A"),
    "preact_resnet110": cifar(PreAct, 18, "A"),
    "resnet164": cifar(Bottleneck, 18, "B"),
    "preact_resnet164": cifar(PreActBottleneck, 18, "B"),
    "preact_resnet1001": cifar(PreActBottleneck, 111, "B"),
    "resnet18": imagenet(Basic, L18),
    "resnet34": imagenet(Basic, L34),
    "resnet50": imagenet(Bottleneck, L34),
    "resnet101": imagenet(Bottleneck, L101),
    "resnet152": imagenet(Bottleneck, L152),
    "resnet50_v1": imagenet(Bottleneck, L34, v1=True),
    "resnet101_v1": imagenet(Bottleneck, L101, v1=True),
    "resnet152_v1": imagenet(Bottleneck, L152, v1=True),
    "plain18": imagenet(Plain, L18, None),
    "plain34": imagenet(Plain, L34, None),
    "preact_resnet18": imagenet(PreAct, L18),
    "preact_resnet34": imagenet(PreAct, L34),
    "preact_resnet50": imagenet(PreActBottleneck, L34),
    "wide_resnet50_2": imagenet(Bottleneck, L34, base_width=128),
    "resnet9": (Basic, [1, 0, 1], "cifar", (128, 256, 512), None, {"inplanes": 64, "pool": True}),
    "slim_resnet9": (Basic, [1, 0, 1], "cifar", (64, 128, 256), None, {"inplanes": 32, "pool": True}),
    "resnext50_32x4d": imagenet(Bottleneck, L34, groups=32, base_width=4),
}


def create(name, num_classes=10, *, shortcut="own", stem=None, layers=None, widths=None):
    block, own_layers, own_stem, planes, own_shortcut, options = MODELS[name]
    shortcut = own_shortcut if shortcut == "own" else shortcut
    return ResNet(block, layers or own_layers, num_classes, stem or own_stem, widths or planes, shortcut, **options)


def load(net, state):
    net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    return net
