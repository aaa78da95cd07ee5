"""Layers as single kernels of oneDNN: product, bias and ELU in one pass over many rows, on a CPU.

A plan computes each layer for 1000 rows at a time, a tenth of it ELUs, and oneDNN's products take a
fifth less time there than torch's other ones. torch reaches oneDNN's fused layers by TorchScript
alone, so each kind of layer is a traced function of a few lines, with the weights as arguments.
Without gradients.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.networks import ACTIVATIONS, GRUCell, Layer, full_precision
from dreamer.views import view
from dreamer.world_model import WorldModel

WARM_UP = 3  # calls until TorchScript has seen the shapes and fused


def available(device: torch.device) -> bool:
    """Whether this torch has fused layers on the device."""
    fuses = hasattr(torch.jit, "enable_onednn_fusion") and torch.backends.mkldnn.is_available()
    return fuses and device.type == "cpu"


def fused(model: WorldModel, half: bool) -> WorldModel:
    """A copy of the model with fused layers, in half precision if `half`. Its weights stay as they
    are now.
    """
    kernels = Kernels(half)

    def change(clone: nn.Module) -> None:
        if isinstance(clone, Layer):
            clone.forward = functools.partial(_layer, clone, kernels)  # type: ignore[method-assign]
        elif isinstance(clone, GRUCell):
            clone.forward = functools.partial(_gru_cell, clone, kernels)  # type: ignore[method-assign]

    return view(model, change)


def _layer(layer: Layer, kernels: Kernels, x: Tensor, plus: Tensor | None = None) -> Tensor:
    return kernels(x, layer.weight, layer.bias, plus, layer.activation)


def _gru_cell(cell: GRUCell, kernels: Kernels, x: Tensor, deter: Tensor) -> Tensor:
    """The GRU's cell with the gates' sums and activations inside of products."""
    cut = [2 * cell.hidden_size, cell.hidden_size]
    gates_x, new_x = zip(cell.weight_ih.split(cut), cell.bias_ih.split(cut), strict=True)
    gates_h, new_h = zip(cell.weight_hh.split(cut), cell.bias_hh.split(cut), strict=True)
    gates = kernels(x, *gates_x, plus=kernels(deter, *gates_h), then="sigmoid")
    reset, keep = gates.chunk(2, -1)
    new = kernels(x, *new_x, plus=reset * kernels(deter, *new_h), then="tanh")
    return torch.lerp(full_precision(new), deter, full_precision(keep))


class Kernels:
    """Fused kernels for weights as they are now, in half precision if `half`."""

    def __init__(self, half: bool):
        self.half = half
        self.low: dict[tuple[int, int], Tensor] = {}  # (address, size) of a weight -> its bf16

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        plus: Tensor | None = None,
        then: str = "",
    ) -> Tensor:
        """then(x W^T + b + plus) [n, O] from x [n, I], weight [O, I], bias [O] and plus [n, O];
        `then` names an activation of networks.py."""
        if plus is not None and len(plus) != len(x):  # one row for all
            y = self(x, weight, bias)
            return ACTIVATIONS[then](y + plus.to(y.dtype))
        kept = [None if w is None else self._kept(w) for w in (weight, bias)]
        if self.half:
            x, plus = x.bfloat16(), None if plus is None else plus.bfloat16()
        arguments = (x, *kept, plus)
        kernel = fused_layer(
            then, x.dtype, tuple(None if t is None else t.shape for t in arguments)
        )
        return kernel(*(t for t in arguments if t is not None))

    def _kept(self, weight: Tensor) -> Tensor:
        if not self.half:
            return weight.detach()
        place = weight.data_ptr(), weight.numel()
        if place not in self.low:
            self.low[place] = weight.detach().bfloat16()
        return self.low[place]


@functools.cache
def fused_layer(then: str, dtype: torch.dtype, shapes: tuple[Any, ...]) -> Callable[..., Tensor]:
    """A layer for arguments of these shapes: x, weight, bias and plus, the last two None or not.

    It is warm: TorchScript fuses at a later call than the first, and last bits may change then,
    which must not happen amid a run that is to be resumed exactly.
    """
    _, _, with_bias, with_plus = (shape is not None for shape in shapes)
    activation = {"": lambda y: y, "elu": F.elu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}[then]

    def layer(x: Tensor, weight: Tensor, *more: Tensor) -> Tensor:
        y = F.linear(x, weight, more[0] if with_bias else None)
        return activation(y + more[-1] if with_plus else y)

    example = [torch.zeros(shape, dtype=dtype) for shape in shapes if shape is not None]
    with warnings.catch_warnings(), torch.no_grad(), torch.autocast("cpu", enabled=False):
        warnings.simplefilter("ignore")  # that TorchScript is no longer developed
        torch.jit.enable_onednn_fusion(True)
        traced = torch.jit.trace(layer, example, check_trace=False)
        for _ in range(WARM_UP):
            traced(*example)
    return traced
