"""ResNets of basic blocks in JAX, in the style of its users: a function of parameters, compiled as a whole.

Images are (N, H, W, C) and kernels (H, W, I, O), the order in which XLA's convolutions for CPUs are fastest. Parameters
are those of our own network, with their names. The running statistics, which need no gradient, are updated as in the
other contenders.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

State = dict[str, Any]


def parameters_of(net: Any) -> tuple[State, State]:
    """The trained parameters and the running statistics of one of our networks."""
    trained, running = {}, {}
    for name, array in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        kept = running if "running" in name else trained
        kept[name] = jnp.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)
    return trained, running


def logits(w: State, x: Any, running: State) -> tuple[Any, State]:
    """Logits of a batch x (N, H, W, 3) in training, and the running statistics after it."""
    running = dict(running)

    def conv(x: Any, name: str, stride: int = 1) -> Any:
        kernel = w[f"{name}.weight"]
        pad = [(kernel.shape[0] // 2,) * 2] * 2
        return lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def norm(x: Any, name: str) -> Any:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        n = x.size // x.shape[-1]
        for key, value in (("mean", mean), ("var", var * n / (n - 1))):
            running[f"{name}.running_{key}"] = 0.9 * running[f"{name}.running_{key}"] + 0.1 * value
        return (x - mean) * lax.rsqrt(var + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = jax.nn.relu(norm(conv(x, "conv1"), "bn1"))
    for block in sorted({".".join(name.split(".")[:2]) for name in w if name.startswith("layer")}):
        narrow, out = x.shape[-1], w[f"{block}.conv1.weight"].shape[-1]
        stride = 2 if block.endswith(".0") and not block.startswith("layer1") else 1
        shortcut = x[:, ::stride, ::stride]
        if f"{block}.downsample.0.weight" in w:
            shortcut = norm(conv(x, f"{block}.downsample.0", stride), f"{block}.downsample.1")
        elif narrow < out:
            more = out - narrow
            shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        y = jax.nn.relu(norm(conv(x, f"{block}.conv1", stride), f"{block}.bn1"))
        x = jax.nn.relu(norm(conv(y, f"{block}.conv2"), f"{block}.bn2") + shortcut)
    return x.mean((1, 2)) @ w["fc.weight"].T + w["fc.bias"], running


def step_of(net: Any, images: np.ndarray, labels: np.ndarray, sgd: dict[str, Any]) -> Any:
    """A function that takes one training step of a network like ours and returns the loss."""
    trained, running = parameters_of(net)
    if any(".conv3." in name for name in trained) or trained["conv1.weight"].shape[0] != 3:
        raise ValueError("JAX: only networks of basic blocks with the stem for CIFAR are written down")
    x, y = jnp.asarray(images.transpose(0, 2, 3, 1)), jnp.asarray(labels)

    def loss_of(w: State, running: State) -> tuple[Any, State]:
        values, running = logits(w, x, running)
        return -jnp.take_along_axis(jax.nn.log_softmax(values), y[:, None], 1).mean(), running

    def update(w: State, velocity: State, running: State) -> tuple[State, State, State, Any]:
        (loss, running), g = jax.value_and_grad(loss_of, has_aux=True)(w, running)
        g = jax.tree.map(lambda g, w: g + sgd["weight_decay"] * w, g, w)
        velocity = jax.tree.map(lambda v, g: sgd["momentum"] * v + g, velocity, g)
        w = jax.tree.map(lambda w, v, g: w - sgd["lr"] * (g + sgd["momentum"] * v), w, velocity, g)
        return w, velocity, running, loss

    compiled = jax.jit(update, donate_argnums=(0, 1, 2))
    state = [trained, jax.tree.map(jnp.zeros_like, trained), running]

    def step() -> float:
        *state[:], loss = compiled(*state)
        return float(loss)

    return step
