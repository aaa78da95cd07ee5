"""Views of a module: the same weights, seen in another way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def view(module: Module, change: Callable[[nn.Module], None]) -> Module:
    """A copy of the module and of all modules in it that shares their weights. `change` is called
    with each copy and may alter it; the module itself stays as it is."""
    clone = copy.copy(module)
    inner = {name: part and view(part, change) for name, part in module._modules.items()}
    clone._modules = inner
    change(clone)
    return clone


def frozen(module: Module) -> Module:
    """The module with stop-gradient weights: gradients flow through it, not into it."""

    def stop_gradient(clone: nn.Module) -> None:
        weights = clone._parameters.items()
        clone._parameters = {name: w if w is None else w.detach() for name, w in weights}  # type: ignore[misc]

    return view(module, stop_gradient)
