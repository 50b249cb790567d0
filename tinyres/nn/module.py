"""Modules: parameters with names, in a tree."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from tinyres import html, tape
from tinyres.tape import Array, HookHandle, scope
from tinyres.tensor import Tensor, as_dtype


class Parameter(Tensor):
    """A tensor that training changes. If it is an attribute of a `Module`, `parameters()` finds it.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.nn.Parameter([1.0]).requires_grad
    True
    """

    __slots__ = ()

    def __init__(self, array: Any) -> None:
        super().__init__(array, requires_grad=True)


class Keys(NamedTuple):
    """Names that `Module.load_state_dict` ignored: those of the module only, and those of the state only."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base class of layers and networks.

    A subclass assigns parameters, buffers and other modules to attributes, and defines `forward`. The tree of
    attributes gives every parameter its name, e.g. ``layer1.0.conv1.weight``.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> class Scale(tr.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = tr.nn.Parameter(np.ones(1))
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> [name for name, _ in Scale().named_parameters()]
    ['factor']
    """

    def __init__(self) -> None:
        self.training, self.frozen = True, False
        self._parameters: dict[str, Parameter] = {}
        self._buffers: dict[str, Array] = {}
        self._modules: dict[str, Module] = {}
        self._forward_pre_hooks: list[Callable[[Module, tuple[Any, ...]], Any]] = []
        self._forward_hooks: list[Callable[[Module, tuple[Any, ...], Any], Any]] = []
        self._changing_hooks: list[Any] = []  # hooks of both kinds that have returned something
        self._name = ""

    # -- the tree
    def __setattr__(self, name: str, value: Any) -> None:
        group: dict[str, Any] | None = None
        if isinstance(value, Parameter | Module):
            self._expect_init(name)
            group = self._parameters if isinstance(value, Parameter) else self._modules
        elif name in self.__dict__.get("_buffers", {}) and isinstance(value, np.ndarray | np.generic):
            value, group = np.asarray(value), self._buffers  # `self.count = self.count + 1` gives a scalar
        elif value is not None:
            self._expect_no_other(name, value)
        self._forget(name, but=group)
        if group is not None:
            group[name] = value
        if isinstance(value, Module):
            value._name = name
        object.__setattr__(self, name, value)

    def _expect_no_other(self, name: str, value: Any) -> None:
        """An attribute keeps its kind. Else an optimizer would still train a parameter that the module lost."""
        for group, kind, mend in (
            ("_parameters", "a Parameter", f"wrap it as nn.Parameter, or copy it to {name}.data"),
            ("_modules", "a Module", "or None"),
            ("_buffers", "an ndarray", "give its .data"),
        ):
            if name in self.__dict__.get(group, {}):
                raise TypeError(f"{type(self).__name__}.{name}: got {type(value).__name__}, expected {kind}: {mend}")

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._forget(name)

    def _forget(self, name: str, *, but: dict[str, Any] | None = None) -> None:
        for group in (self.__dict__.get(g) for g in ("_parameters", "_buffers", "_modules")):
            if group is not None and group is not but:  # a value of the same kind keeps its place in the order
                group.pop(name, None)

    def _expect_init(self, name: str) -> None:
        if "_modules" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning {name!r}")

    def register_buffer(self, name: str, array: Array) -> None:
        """Add an array that is saved with the parameters but not trained, such as a running mean."""
        self._expect_init(name)
        self._buffers[name] = array
        self.__setattr__(name, array)

    def children(self) -> Iterator["Module"]:
        """Modules that are attributes of this one."""
        yield from self._modules.values()

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """Modules that are attributes of this one, with their names."""
        yield from self._modules.items()

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """This module (named "") and all below it, with their paths, parents first."""
        yield prefix, self
        for name, child in self._modules.items():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator["Module"]:
        """This module and all below it. A shared module comes once."""
        return iter(dict.fromkeys(module for _, module in self.named_modules()))

    def _named(self, *groups: str) -> Iterator[tuple[str, Any]]:
        """Attributes of this module and all below it that are in these groups, with their paths."""
        for path, module in self.named_modules():
            for group in groups:
                for name, value in getattr(module, group).items():
                    yield f"{path}.{name}" if path else name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Parameters of this module and all below it, with their paths. A shared parameter comes once."""
        first: dict[Parameter, str] = {}
        for path, parameter in self._named("_parameters"):
            first.setdefault(parameter, path)
        return ((path, parameter) for parameter, path in first.items())

    def parameters(self) -> Iterator[Parameter]:
        """Parameters of this module and all below it."""
        return (parameter for _, parameter in self.named_parameters())

    def apply(self, function: Callable[["Module"], Any]) -> "Module":
        """Call a function with each module, for example to set parameters: modules below first, this one last.

        Examples
        --------
        >>> import tinyres as tr
        >>> def start(module):
        ...     if isinstance(module, tr.nn.Linear):
        ...         module.bias.data[...] = 1
        >>> net = tr.nn.Sequential(tr.nn.Linear(2, 2), tr.nn.ReLU()).apply(start)
        >>> net[0].bias.data
        array([1., 1.], dtype=float32)
        """
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "Module":
        """Set whether all parameters require gradients. Batch norm still updates its statistics: see `freeze`.

        Examples
        --------
        >>> import tinyres as tr
        >>> net = tr.nn.Linear(2, 1).requires_grad_(False)
        >>> [p.requires_grad for p in net.parameters()]
        [False, False]
        """
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    # -- calling
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation of the module. Subclasses define it."""
        raise TypeError(f"{type(self).__name__} does not define forward(), which runs when a module is called")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for before in list(self._forward_pre_hooks):
            changed = self._call(before, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        with scope(self._name) if self._name else nullcontext():
            out = self.forward(*args, **kwargs)
        for hook in list(self._forward_hooks):
            changed = self._call(hook, args, out)
            out = out if changed is None else changed
        return out

    def _call(self, hook: Callable[..., Any], *what: Any) -> Any:
        """Call a hook. If a checkpoint repeats a forward, only hooks that have returned something are called again."""
        if tape.state.recomputing and hook not in self._changing_hooks:
            return None
        changed = hook(self, *what)
        if changed is not None and hook not in self._changing_hooks:
            self._changing_hooks.append(hook)
        return changed

    def register_forward_pre_hook(self, hook: Callable[["Module", tuple[Any, ...]], Any]) -> HookHandle:
        """Call ``hook(module, args)`` before each forward. The hook may replace the positional arguments.

        It returns a tuple of arguments, or a single argument, or None to keep them.

        Returns
        -------
        HookHandle
            Its `remove` removes the hook.

        Examples
        --------
        >>> import tinyres as tr
        >>> layer = tr.nn.ReLU()
        >>> with layer.register_forward_pre_hook(lambda module, args: args[0] * -1):
        ...     layer(tr.Tensor([-1.0, 2.0])).data
        array([1., 0.], dtype=float32)
        """
        return HookHandle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable[["Module", tuple[Any, ...], Any], Any]) -> HookHandle:
        """Call ``hook(module, args, output)`` after each forward.

        If the hook returns something other than None, this becomes the module's output. If a checkpoint repeats a
        forward, only hooks that have changed an output are called again.

        Returns
        -------
        HookHandle
            Its `remove` removes the hook.

        Examples
        --------
        >>> import tinyres as tr
        >>> layer = tr.nn.ReLU()
        >>> handle = layer.register_forward_hook(lambda module, args, y: y * 10)
        >>> layer(tr.Tensor([-1.0, 2.0])).data
        array([ 0., 20.], dtype=float32)
        >>> handle.remove()
        """
        return HookHandle(self._forward_hooks, hook)

    # -- modes
    def train(self, mode: bool = True) -> "Module":
        """Set training mode for this module and all below it, except frozen ones. With False, evaluation mode.

        In training mode, batch norm normalises with the statistics of the batch.
        """
        for module in self.modules():
            module.training = mode and not module.frozen
        return self

    def eval(self) -> "Module":
        """Set evaluation mode: batch norm uses the running statistics."""
        return self.train(False)

    def freeze(self) -> "Module":
        """Keep this module and all below it from changing in training.

        No parameter requires a gradient any more, and the module stays in evaluation mode: `train` has no effect, so
        batch norm keeps its running statistics.

        Examples
        --------
        >>> import tinyres as tr
        >>> net = tr.models.resnet18()
        >>> _ = net.conv1.freeze(), net.bn1.freeze()
        >>> net.train().bn1.training, net.layer1[0].bn1.training
        (False, True)
        """
        for module in self.modules():
            module.frozen, module.training = True, False
        return self.requires_grad_(False)

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to None."""
        for parameter in self.parameters():
            parameter.grad = None

    # -- state
    def buffers(self) -> Iterator[Array]:
        """Arrays that belong to the state but are not trained, such as batch norm's running statistics.

        Examples
        --------
        >>> import tinyres as tr
        >>> [buffer.shape for buffer in tr.nn.BatchNorm2d(4).buffers()]
        [(4,), (4,), ()]
        """
        return (buffer for _, buffer in self.named_buffers())

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """The arrays of `buffers`, with their paths.

        Examples
        --------
        >>> import tinyres as tr
        >>> [name for name, _ in tr.nn.Sequential(tr.nn.BatchNorm2d(4)).named_buffers()][0]
        '0.running_mean'
        """
        return self._named("_buffers")

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and buffers by name, in PyTorch's order.

        Examples
        --------
        >>> import tinyres as tr
        >>> list(tr.nn.BatchNorm2d(4).state_dict())
        ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
        """
        return {name: array.copy() for name, array in self.named_arrays()}

    def named_arrays(self) -> Iterator[tuple[str, Array]]:
        """The arrays of all parameters and buffers, not copied, with the names of `state_dict`.

        Examples
        --------
        >>> import tinyres as tr
        >>> [name for name, _ in tr.nn.BatchNorm2d(2).named_arrays()][:2]
        ['weight', 'bias']
        """
        for name, value in self._named("_parameters", "_buffers"):
            yield name, value.data if isinstance(value, Parameter) else value

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Keys:
        """Copy values into all parameters and buffers.

        Parameters
        ----------
        state : mapping of str to array
            Values by name, as from `state_dict`. They are converted to the dtypes of the module.
        strict : bool
            If True, both sides must have the same names. If False, missing and unexpected names are ignored. A wrong
            shape is an error in both cases.

        Returns
        -------
        Keys
            ``missing_keys`` and ``unexpected_keys``. Both are empty if `strict` is True.

        Raises
        ------
        ValueError
            If the state does not fit. The message lists all missing and unexpected names and all wrong shapes. The
            module is then unchanged.
        """
        own = dict(self._named("_parameters", "_buffers"))
        arrays = {name: np.asarray(value) for name, value in state.items()}
        both = [(name, arrays[name], array) for name, array in own.items() if name in arrays]
        problems = [f"{n}: got shape {a.shape}, expected {b.shape}" for n, a, b in both if a.shape != b.shape]
        problems += [f"{n}: got dtype {a.dtype}, expected {b.dtype}" for n, a, b in both if a.dtype.kind not in "fiub"]
        keys = Keys([name for name in own if name not in arrays], [name for name in arrays if name not in own])
        if strict:
            problems += [f"{name}: missing" for name in keys.missing_keys]
            problems += [f"{name}: unexpected" for name in keys.unexpected_keys]
        if problems:
            raise ValueError(f"state does not fit {type(self).__name__}:\n  " + "\n  ".join(problems))
        for name, value in own.items():
            if name in arrays and isinstance(value, Parameter):  # a new array: a graph may still hold the old one
                value.data = np.array(arrays[name], value.dtype)
            elif name in arrays:
                value[...] = arrays[name]
        return keys

    def to(self, *args: Any, dtype: Any = None) -> "Module":
        """Convert to a dtype, as `astype`. As in PyTorch, it also takes a device, but ``"cpu"`` is the only one.

        Raises
        ------
        ValueError
            If the device is not ``"cpu"``.
        TypeError
            If an argument is neither a dtype nor a device.

        Examples
        --------
        >>> import numpy as np, tinyres as tr
        >>> tr.nn.Linear(2, 1).to("cpu").to(np.float64).weight.dtype
        dtype('float64')
        >>> tr.nn.Linear(2, 1).to("cuda")
        Traceback (most recent call last):
        ValueError: to: got device 'cuda', expected 'cpu': tinyres computes only there
        """
        for arg in (*args, dtype):
            device = arg.split(":")[0] if isinstance(arg, str) else ""
            if device in ("cuda", "mps", "xpu", "gpu"):
                raise ValueError(f"to: got device {arg!r}, expected 'cpu': tinyres computes only there")
            if device != "cpu" and arg is not None:
                try:
                    to = as_dtype(arg)
                except TypeError:
                    raise TypeError(f"to: got {arg!r}, expected 'cpu', float32 or float64") from None
                self.astype(to)
        return self

    def float(self) -> "Module":
        """Convert to float32, see `astype`."""
        return self.astype(np.float32)

    def double(self) -> "Module":
        """Convert to float64, see `astype`."""
        return self.astype(np.float64)

    def astype(self, dtype: Any) -> "Module":
        """Convert all parameters and floating-point buffers, e.g. to float64 for a gradient check."""
        for module in self.modules():
            for parameter in module._parameters.values():
                parameter._data, parameter.grad = parameter.data.astype(dtype), None
            for name, buffer in list(module._buffers.items()):
                if buffer.dtype.kind == "f":
                    module.register_buffer(name, buffer.astype(dtype))
        return self

    def __repr__(self) -> str:
        lines = [f"  ({n}): " + repr(m).replace("\n", "\n  ") for n, m in self._modules.items()]
        return f"{type(self).__name__}({self.extra_repr()}" + ("\n" + "\n".join(lines) + "\n" if lines else "") + ")"

    def _repr_html_(self) -> str:
        """The HTML that notebooks show: the tree of modules, which can be expanded."""
        return html.of_module(_part("", self))

    def extra_repr(self) -> str:
        """The module's own settings, which `repr` shows."""
        return ""


def _part(name: str, module: Module) -> html.Part:
    arrays = [(n, p.shape, "" if p.requires_grad else "frozen") for n, p in module._parameters.items()]
    arrays += [(n, buffer.shape, "buffer") for n, buffer in module._buffers.items()]
    below = [_part(n, child) for n, child in module.named_children()]
    total = sum(p.size for p in module.parameters())
    return html.Part(name, type(module).__name__, module.extra_repr(), arrays, total, below)


def expect_eval(model: Module, caller: str) -> None:
    """Raise ValueError if a model, or a part of it, is in training mode."""
    for name, module in model.named_modules():
        if module.training:
            what = f"module {name!r}" if name else "the model"
            raise ValueError(f"{caller}: {what} is in training mode, expected evaluation: call model.eval() first")
