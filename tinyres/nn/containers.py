"""Containers: modules that hold other modules, in a sequence, in a list, or by name."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tinyres.nn.module import Module
from tinyres.recompute import checkpoint
from tinyres.tensor import Tensor


class Sequential(Module):
    """Modules called one after the other, named "0", "1", ...

    Parameters
    ----------
    *modules : Module
        Or one dict of names and modules (also an OrderedDict). ``net[1:]`` is a `Sequential` of a part of them.

    Raises
    ------
    TypeError
        If one of them is not a Module.

    Attributes
    ----------
    segment : int
        Run this many modules at a time in a `checkpoint`. For backward, only the input of the first of them is kept;
        the rest is computed again. 0, the default, keeps everything.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.nn.Sequential(tr.nn.Flatten(), tr.nn.Linear(4, 2))
    >>> len(net), type(net[1]).__name__
    (2, 'Linear')
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        self.segment = 0
        first = modules[0] if len(modules) == 1 else None
        named = first if isinstance(first, Mapping) else {str(i): module for i, module in enumerate(modules)}
        for name, module in named.items():
            _add(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        modules = list(self._modules.values())
        if not self.segment:
            return _chain(modules, x)
        for start in range(0, len(modules), self.segment):
            x = checkpoint(_chain, modules[start : start + self.segment], x)
        return x

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return list(self._modules.values())[index]

    def __iter__(self) -> Iterator[Module]:
        return self.children()


class ModuleList(Module):
    """A list of modules, as an attribute of another module. It has no forward: that module's forward calls them.

    Parameters
    ----------
    modules : iterable of Module, optional

    Raises
    ------
    TypeError
        If one of them is not a Module.

    Examples
    --------
    >>> import tinyres as tr
    >>> class Steps(tr.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.steps = tr.nn.ModuleList(tr.nn.Linear(2, 2) for _ in range(3))
    ...     def forward(self, x):
    ...         for step in self.steps:
    ...             x = x + step(x)
    ...         return x
    >>> [name for name, _ in Steps().named_parameters()][:2]
    ['steps.0.weight', 'steps.0.bias']
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def append(self, module: Module) -> "ModuleList":
        """Add a module at the end."""
        return self.insert(len(self), module)

    def extend(self, modules: Iterable[Module]) -> "ModuleList":
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> "ModuleList":
        """Insert a module before the one at this index."""
        modules = list(self)
        modules.insert(index, module)
        return self._set(modules)

    def _set(self, modules: list[Module]) -> "ModuleList":
        """Replace all modules by these, named by their new indices."""
        for i, module in enumerate(modules):
            if not isinstance(module, Module):
                raise TypeError(f"ModuleList: {i}: got {_what(module)}")
        for name in list(self._modules):
            delattr(self, name)
        for i, module in enumerate(modules):
            setattr(self, str(i), module)
        return self

    def __setitem__(self, index: int, module: Module) -> None:
        modules = list(self)
        modules[index] = module
        self._set(modules)

    def __delitem__(self, index: int | slice) -> None:
        modules = list(self)
        del modules[index]
        self._set(modules)

    def __getitem__(self, index: Any) -> Any:
        modules = list(self._modules.values())
        return ModuleList(modules[index]) if isinstance(index, slice) else modules[index]

    def __iadd__(self, modules: Iterable[Module]) -> "ModuleList":
        return self.extend(modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return self.children()


class ModuleDict(Module):
    """A dict of modules by name, as an attribute of another module, whose forward calls them.

    Parameters
    ----------
    modules : mapping of str to Module, optional

    Raises
    ------
    TypeError
        If one of them is not a Module.
    ValueError
        If a name is empty, has a dot, or is an attribute of Module.

    Examples
    --------
    >>> import tinyres as tr
    >>> heads = tr.nn.ModuleDict({"kind": tr.nn.Linear(4, 3), "age": tr.nn.Linear(4, 1)})
    >>> heads["age"](tr.zeros(2, 4)).shape, "name" in heads
    ((2, 1), False)
    """

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module]) -> None:
        """Add modules. A module whose name exists replaces the old one."""
        for name, module in modules.items():
            self[name] = module

    def pop(self, name: str) -> Module:
        """Remove a module and return it."""
        module = self[name]
        del self[name]
        return module

    def keys(self) -> Iterable[str]:
        """Names."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """Modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Names and modules."""
        return self._modules.items()

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        _add(self, name, module)

    def __delitem__(self, name: str) -> None:
        self._modules[name]
        delattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)


def _add(container: Module, name: Any, module: Any) -> None:
    kind = type(container).__name__
    if not isinstance(module, Module):
        raise TypeError(f"{kind}: {name}: got {_what(module)}")
    taken = isinstance(name, str) and name not in container._modules and hasattr(container, name)
    if not isinstance(name, str) or not name or "." in name or taken:
        raise ValueError(f"{kind}: got the name {name!r}, expected one without a dot that is not taken")
    setattr(container, name, module)


def _what(value: Any) -> str:
    """The part of an error message that says what was given instead of a module, and how to correct it."""
    if isinstance(value, list | tuple | Iterator):
        return f"a {type(value).__name__}, expected a Module: write Sequential(*modules), with a star"
    if callable(value) and not isinstance(value, type):
        name = getattr(value, "__name__", type(value).__name__)
        return f"the function {name}, expected a Module such as nn.ReLU(), or one of your own that calls it in forward"
    if isinstance(value, type):
        return f"the class {value.__name__}, expected a Module: write {value.__name__}(...)"
    return f"{type(value).__name__}, expected a Module"


def _chain(modules: list[Module], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x
