"""The base class of optimizers: groups of parameters, and a state for each parameter."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from tinyres.nn.module import Module, Parameter
from tinyres.tape import Array
from tinyres.tensor import Tensor

Params: TypeAlias = Iterable[Parameter] | Sequence[Mapping[str, Any]]


class Optimizer:
    """Base class: parameters in groups, each with its own settings, and named arrays of state for each parameter.

    Parameters
    ----------
    params : iterable of Parameter, or sequence of dict
        Groups as in PyTorch: ``[{"params": [...], "weight_decay": 0.0}, ...]``. Settings that a group does not have
        come from `defaults`.
    defaults : mapping
        Settings of all groups. ``groups[i]["lr"]`` can be assigned at any time. If a group has an ``lr_scale`` and no
        ``lr``, its rate is the common rate times this factor.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> class Sign(tr.optim.Optimizer):
    ...     def update(self, p, g, state, group):
    ...         p -= p.dtype.type(group["lr"]) * np.sign(g)
    >>> p = tr.nn.Parameter([1.0]); p.grad = np.array([-3.0], np.float32)
    >>> Sign([p], {"lr": 0.5, "weight_decay": 0.0}).step(); p.data
    array([1.5], dtype=float32)
    """

    slots: tuple[str, ...] = ()  # names of the state arrays, which have their parameter's shape

    def __init__(self, params: Params, defaults: Mapping[str, Any]) -> None:
        entries = listed(params)
        groups: list[Any] = entries if entries and isinstance(entries[0], Mapping) else [{"params": entries}]
        defaults = {**defaults, "lr_scale": 1.0}
        for group in groups:
            if not isinstance(group, Mapping) or "params" not in group or group.keys() - {*defaults, "params", "name"}:
                expected = ", ".join(["params", *defaults])
                raise TypeError(f"params: got a group {reprlib.repr(group)}, expected a dict of some of {expected}")
        self.groups: list[dict[str, Any]] = [
            {**defaults, **group, "params": _trained(group["params"])} for group in groups
        ]
        for own, group in zip(groups, self.groups, strict=True):
            if "lr" not in own:
                group["lr"] *= group["lr_scale"]
        if not any(group["params"] for group in self.groups):
            raise ValueError("params: got no parameters, expected at least one")
        parameters = [p for group in self.groups for p in group["params"]]
        if len(set(parameters)) < len(parameters):
            raise ValueError("params: got one parameter twice, which would be changed twice in each step")
        for group in self.groups:
            for name in ("lr", "weight_decay", "lr_scale"):
                if not group[name] >= 0:
                    raise ValueError(f"{name}: got {group[name]}, expected 0.0 or more")
        self.step_count = 0
        self.state: dict[Parameter, dict[str, Array]] = {
            p: {slot: np.zeros_like(p.data) for slot in self.slots} for p in parameters
        }

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of all groups. It is multiplied by a group's ``lr_scale``, if it has one."""
        for group in self.groups:
            group["lr"] = lr * group["lr_scale"]

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for parameter in self.state:
            parameter.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient. Parameters are changed in a fixed order."""
        self.step_count += 1
        for group in self.groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter in parameters:
                self._follow(parameter)
                if not parameter.data.flags.writeable:  # a graph that is still alive has saved the old values
                    parameter.data = parameter.data.copy()
            self.update_group(parameters, group)

    def _follow(self, parameter: Parameter) -> None:
        """Convert the state to the parameter's dtype, which ``net.astype`` may have changed since the last step."""
        gradient, state = parameter.grad, self.state[parameter]
        if not isinstance(gradient, np.ndarray) or (gradient.shape, gradient.dtype) != (
            parameter.shape, parameter.dtype,
        ):  # fmt: skip
            got = f"{gradient.shape} {gradient.dtype}" if isinstance(gradient, np.ndarray) else type(gradient).__name__
            raise TypeError(
                f"grad: got {got}, expected an array like the parameter, {parameter.shape} {parameter.dtype}"
            )
        for slot in self.slots:
            if state[slot].dtype != parameter.dtype:
                state[slot] = state[slot].astype(parameter.dtype)

    def update_group(self, parameters: Sequence[Parameter], group: dict[str, Any]) -> None:
        """Change the parameters of a group one by one, with `update`. All of them have gradients."""
        for p in parameters:
            assert p.grad is not None
            self.update(p.data, p.grad, self.state[p], group)

    def _lists(self, parameters: Sequence[Parameter]) -> list[list[Any]]:
        """Arguments for a kernel: lists of the parameters' arrays, of gradients, and of the state of each slot."""
        states = [[self.state[p][slot] for p in parameters] for slot in self.slots]
        return [[p.data for p in parameters], [p.grad for p in parameters], *states]

    def update(self, p: Array, g: Array, state: dict[str, Array], group: dict[str, Any]) -> None:
        """Change the array `p` in place, given its gradient `g`. Subclasses define this, or `update_group`."""
        raise TypeError(f"{type(self).__name__} does not define update()")

    def state_dict(self) -> dict[str, Array]:
        """Copies of all state arrays (``"0.momentum"`` belongs to the first parameter) and the step count."""
        arrays = {f"{i}.{slot}": s[slot].copy() for i, s in enumerate(self.state.values()) for slot in self.slots}
        return {"step_count": np.array(self.step_count), **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of the same optimizer on the same parameters.

        Raises
        ------
        ValueError
            If names or shapes differ, or ``step_count`` is not a number of steps. The optimizer is then unchanged.
        """
        own = self.state_dict()
        wrong = [
            n for n in own.keys() | state.keys() if n not in own or n not in state or np.shape(state[n]) != own[n].shape
        ]
        if wrong:
            names = ", ".join(sorted(wrong)[:5])
            raise ValueError(f"optimizer state does not fit {type(self).__name__} on these parameters: {names}")
        count = float(state["step_count"])
        if not (count >= 0 and count.is_integer()):
            raise ValueError(f"step_count: got {count:g}, expected 0, 1, 2, ...")
        self.step_count = int(count)
        for i, arrays in enumerate(self.state.values()):
            for slot in self.slots:
                arrays[slot][...] = state[f"{i}.{slot}"]


def listed(params: Any, name: str = "params") -> list[Any]:
    """The entries of an iterable of parameters, or of groups of them; TypeError if it is something else."""
    if isinstance(params, Tensor):
        raise TypeError(f"{name}: got a single tensor, expected an iterable of parameters: write [parameter]")
    if isinstance(params, Module):
        raise TypeError(f"{name}: got {type(params).__name__}, expected its parameters: write net.parameters()")
    if isinstance(params, Mapping) or not isinstance(params, Iterable):
        groups = ", or a list of dicts of them" if name == "params" else ""
        raise TypeError(f"{name}: got {type(params).__name__}, expected an iterable of parameters{groups}")
    return list(params)


def _trained(params: Any) -> list[Parameter]:
    """The parameters of a group; TypeError if one of them cannot be trained."""
    entries = listed(params)
    for entry in entries:
        if not isinstance(entry, Tensor):
            got = f"a {type(entry).__name__}"
        elif not entry.is_leaf:
            got = f"a computed tensor of shape {entry.shape}"
        elif not entry.requires_grad:
            got = f"a tensor of shape {entry.shape} that requires no gradient"
        else:
            continue
        raise TypeError(f"params: got {got} among them, expected parameters, as net.parameters() gives")
    return entries


def expect(name: str, value: Any, holds: bool, expected: str) -> None:
    """Raise ValueError with the usual message if a setting is not valid (`holds` is False).

    Examples
    --------
    >>> expect("eps", -1.0, False, "0 or more")
    Traceback (most recent call last):
    ValueError: eps: got -1.0, expected 0 or more
    """
    if not holds:
        raise ValueError(f"{name}: got {value}, expected {expected}")
