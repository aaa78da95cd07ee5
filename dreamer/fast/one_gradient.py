"""A scan whose weights get their gradients by one product each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dreamer.fast.products import matmul
from dreamer.views import Module, view


def one_gradient(module: Module) -> Module:
    """The module for the steps of one scan if gradients are computed, else the module itself.

    Its layers' products are those of an `OneGradient`. The scan must be differentiated as a whole.
    """
    if not torch.is_grad_enabled():
        return module
    product = OneGradient()

    def change(clone: nn.Module) -> None:
        if hasattr(clone, "product"):
            clone.product = product  # type: ignore[assignment]

    return view(module, change)


class OneGradient:
    """Products x W^T + b for the steps of one scan, with one product for each weight's gradient.

    Autograd computes a weight's gradient step by step: for each layer and step a small product, a
    sum for the bias and additions to what the other steps gave. Here only the chain of input
    gradients runs step by step; each step puts its input and its gradient aside, and one product
    over all of them follows when the last has done so.
    """

    def __init__(self) -> None:
        self.layers: dict[int, tuple] = {}  # id of a weight -> what its steps share

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if id(weight) not in self.layers:
            aside: list[tuple[Tensor, Tensor]] = []
            kind = x.device.type
            low = torch.is_autocast_enabled(kind)
            dtype = torch.get_autocast_dtype(kind) if low else weight.dtype
            values = weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
            self.layers[id(weight)] = (_WeightGradient.apply(aside, weight, bias), aside, *values)
        return _InputGradient.apply(x, *self.layers[id(weight)])


class _InputGradient(torch.autograd.Function):
    """A step's product; `link` has no value, it lets `_WeightGradient` wait for all steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, link: Tensor, aside: list, weight: Tensor, bias: Any) -> Any:
        low = x.to(weight.dtype)
        ctx.save_for_backward(low, weight)
        ctx.aside, ctx.dtype = aside, x.dtype
        return matmul(low, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        ctx.aside.append((x, gradient))
        onward = matmul(gradient, weight.t()).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return onward, None, None, None, None


class _WeightGradient(torch.autograd.Function):
    """Gradients of a weight and a bias from what the steps put aside."""

    @staticmethod
    def forward(ctx: Any, aside: list, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.aside = aside
        return weight.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        x, gradient = (torch.cat(parts) for parts in zip(*ctx.aside, strict=True))
        ctx.aside.clear()
        bias = gradient.sum(0) if ctx.needs_input_grad[2] else None
        return None, matmul(gradient.t(), x.t()), bias
