"""Matrix products by oneDNN on a CPU.

torch's own products of single precision come from MKL, which on processors that are not Intel's
leaves their widest vectors unused: oneDNN takes half the time there. torch reaches it by an
operator without gradients, so the three products of a layer are written out here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FEW = 1_000_000  # multiplications; below so many oneDNN takes longer to start than it gains

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[0]


# For torch's FLOP counter, which does not know the operator.
FLOPS = {torch.ops.mkldnn._linear_pointwise: _flops} if AVAILABLE else {}


def matmul(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias [M, O] from x [M, I], weight [O, I] and bias [O]; without gradients."""
    if _pays(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, with gradients: [..., O] from x [..., I], weight [O, I] and bias [O]."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) or not _pays(x, weight):
        return F.linear(x, weight, bias)
    if x.dim() == 2:  # no view of it: an activation in place would copy that
        return _Linear.apply(x, weight, bias)
    return _Linear.apply(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])


def _pays(x: Tensor, weight: Tensor) -> bool:
    single = x.dtype == weight.dtype == torch.float32
    many = x.numel() * weight.shape[0] >= FEW
    return AVAILABLE and many and single and x.device.type == "cpu"


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return matmul(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            matmul(gradient, weight.t()) if to_x else None,
            matmul(gradient.t(), x.t()) if to_weight else None,
            gradient.sum(0) if to_bias else None,
        )
