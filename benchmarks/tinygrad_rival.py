"""ResNets of basic blocks in tinygrad, in the style of its users: a step that TinyJit compiles (on a CPU by clang).

Parameters are those of our own network, with their names; memory is (N, C, H, W). The running statistics are updated as
in the other contenders.
"""

from typing import Any

import numpy as np
from tinygrad import Context, Tensor, TinyJit, nn

State = dict[str, Tensor]


def logits(w: State, running: State, x: Tensor) -> Tensor:
    """Logits of a batch x (N, 3, H, W) in training; the running statistics are changed."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"]
        return x.conv2d(kernel, stride=stride, padding=kernel.shape[2] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        n = x.shape[0] * x.shape[2] * x.shape[3]
        for key, value in (("mean", mean), ("var", var * (n / (n - 1)))):
            old = running[f"{name}.running_{key}"]
            old.assign(0.9 * old + 0.1 * value.detach())
        return x.batchnorm(w[f"{name}.weight"], w[f"{name}.bias"], mean, (var + 1e-5).rsqrt())

    x = norm(conv(x, "conv1"), "bn1").relu()
    for block in sorted({".".join(name.split(".")[:2]) for name in w if name.startswith("layer")}):
        narrow, out = x.shape[1], w[f"{block}.conv1.weight"].shape[0]
        stride = 2 if block.endswith(".0") and not block.startswith("layer1") else 1
        shortcut = x[:, :, ::stride, ::stride]
        if narrow < out:
            more = out - narrow
            shortcut = shortcut.pad(((0, 0), (more // 2, more - more // 2), (0, 0), (0, 0)))
        y = norm(conv(x, f"{block}.conv1", stride), f"{block}.bn1").relu()
        x = (norm(conv(y, f"{block}.conv2"), f"{block}.bn2") + shortcut).relu()
    return x.mean((2, 3)).linear(w["fc.weight"].T, w["fc.bias"])


def step_of(net: Any, images: np.ndarray, labels: np.ndarray, sgd: dict[str, Any]) -> Any:
    """A function that takes one training step of a network like ours and returns the loss."""
    arrays = {name: a for name, a in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    w = {name: Tensor(a).realize() for name, a in arrays.items() if "running" not in name}
    running = {name: Tensor(a).is_param_(False).realize() for name, a in arrays.items() if "running" in name}
    x, y = (Tensor(a).is_param_(False).realize() for a in (images, labels))
    optimizer = nn.optim.SGD(list(w.values()), **sgd)

    @TinyJit
    def step() -> Tensor:
        with Context(TRAINING=1):
            optimizer.zero_grad()
            loss = logits(w, running, x).sparse_categorical_crossentropy(y).backward()
            return loss.realize(*optimizer.schedule_step(), *running.values())

    return lambda: float(step().item())
