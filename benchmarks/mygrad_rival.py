"""ResNets of basic blocks in MyGrad, in the style of its users: NumPy arrays on a graph, updated by hand.

Parameters are those of our own network, with their names; memory is (N, C, H, W). The running statistics are updated as
in the other contenders.
"""

from typing import Any

import mygrad as mg
import numpy as np
from mygrad.nnet.activations import relu
from mygrad.nnet.layers import batchnorm, conv_nd
from mygrad.nnet.losses import softmax_crossentropy

State = dict[str, Any]


def logits(w: State, running: State, x: Any) -> Any:
    """Logits of a batch x (N, 3, H, W) in training; the running statistics are changed."""

    def conv(x: Any, name: str, stride: int = 1) -> Any:
        kernel = w[f"{name}.weight"]
        if stride == 1:
            return conv_nd(x, kernel, stride=1, padding=kernel.shape[2] // 2)
        n, c, height, width = (
            x.shape
        )  # windows must end with the image: pad only where one reads, above and at the left
        x = mg.concatenate([np.zeros((n, c, 1, width), np.float32), x], axis=2)
        x = mg.concatenate([np.zeros((n, c, height + 1, 1), np.float32), x], axis=3)
        return conv_nd(x, kernel, stride=stride)

    def norm(x: Any, name: str) -> Any:
        n = x.data.size // x.shape[1]
        for key, value in (("mean", x.data.mean((0, 2, 3))), ("var", x.data.var((0, 2, 3)) * n / (n - 1))):
            running[f"{name}.running_{key}"] = 0.9 * running[f"{name}.running_{key}"] + 0.1 * value
        return batchnorm(x, gamma=w[f"{name}.weight"], beta=w[f"{name}.bias"], eps=1e-5)

    x = relu(norm(conv(x, "conv1"), "bn1"))
    for block in sorted({".".join(name.split(".")[:2]) for name in w if name.startswith("layer")}):
        narrow, out = x.shape[1], w[f"{block}.conv1.weight"].shape[0]
        stride = 2 if block.endswith(".0") and not block.startswith("layer1") else 1
        shortcut = x[:, :, ::stride, ::stride]
        if narrow < out:
            zeros = np.zeros((len(x), (out - narrow) // 2, *shortcut.shape[2:]), np.float32)
            shortcut = mg.concatenate([zeros, shortcut, zeros], axis=1)
        y = relu(norm(conv(x, f"{block}.conv1", stride), f"{block}.bn1"))
        x = relu(norm(conv(y, f"{block}.conv2"), f"{block}.bn2") + shortcut)
    return mg.matmul(x.mean(axis=(2, 3)), w["fc.weight"].T) + w["fc.bias"]


def step_of(net: Any, images: np.ndarray, labels: np.ndarray, sgd: dict[str, Any]) -> Any:
    """A function that takes one training step of a network like ours and returns the loss."""
    arrays = {name: a.copy() for name, a in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    running = {name: a for name, a in arrays.items() if "running" in name}
    w = {name: mg.tensor(a) for name, a in arrays.items() if name not in running}
    velocity = {name: np.zeros_like(tensor.data) for name, tensor in w.items()}
    x = mg.tensor(images, constant=True)

    def step() -> float:
        loss = softmax_crossentropy(logits(w, running, x), labels)
        loss.backward()
        for name, tensor in w.items():
            gradient = tensor.grad + sgd["weight_decay"] * tensor.data
            velocity[name] = sgd["momentum"] * velocity[name] + gradient
            tensor.data[...] -= sgd["lr"] * (gradient + sgd["momentum"] * velocity[name])
        return float(loss.item())

    return step
