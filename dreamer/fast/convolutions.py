"""Convolutions of stride 2 in forms that take less time than torch's layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, *, transposed: bool, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Of x and weight, as `wanted`, where a (transposed) convolution of stride 2 has `gradient`."""
    stride, padding, dilation, groups = [2, 2], [0, 0], [1, 1], 1
    to_x, to_weight, _ = torch.ops.aten.convolution_backward(
        *(gradient, x, weight, None, stride, padding, dilation),
        *(transposed, [0, 0], groups, [*wanted, False]),  # oneDNN's own bias sum is less exact
    )
    return to_x, to_weight


class Convolution(nn.Conv2d):
    """A convolution of stride 2, even kernel and no padding. On a CPU the gradient of its input is
    computed at the lower resolution (`sub_pixel_transpose`): for few channels in half the time."""

    def forward(self, x: Tensor) -> Tensor:
        plain = x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not x.requires_grad
        if plain:
            return super().forward(x)
        return _SubPixelBackward.apply(x, self.weight, self.bias)


class _SubPixelBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, stride=2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        _, to_weight = gradients(gradient, x, weight, transposed=False, wanted=(False, True))
        # Pixels beyond the last window were not seen: their gradient is zero.
        cells = _cells(gradient, weight, weight.new_zeros(weight.shape[1]))
        to_x = _written(cells, x.shape)
        return to_x, to_weight, gradient.sum((0, 2, 3))


class Transpose(nn.ConvTranspose2d):
    """A transposed convolution that adds its bias by itself: on a CPU its backward pass would spend
    up to a third of its time on the bias' gradient, which is a sum."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert self.bias is not None and output_size is None
        y = F.conv_transpose2d(x, self.weight, stride=self.stride)
        return y.add_(self.bias[:, None, None].to(y.dtype))


class SubPixelTranspose(nn.ConvTranspose2d):
    """The transposed convolution of stride 2 and even kernel K, computed at the lower resolution.

    A pixel of the output at phase (p, q) of its 2x2 cell sees only the kernel's elements of that
    phase. So the layer equals a convolution with K/2 x K/2 kernels and four times the channels, one
    set for each phase, whose outputs are interleaved. With few output channels that is faster.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[n, C, h, w] -> [n, C', 2h + K - 2, 2w + K - 2], both channels last."""
        assert self.bias is not None and self.stride == (2, 2) and output_size is None
        kind = x.device.type
        if kind != "cpu":
            return sub_pixel_transpose(x, self.weight, self.bias)
        low = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if low else x.dtype
        return _SubPixelForward.apply(*(t.to(dtype) for t in (x, self.weight, self.bias)))


def sub_pixel_transpose(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`SubPixelTranspose` as a function of its weight [C, C', K, K] and bias [C']."""
    cells = _cells(x, weight, bias)
    n, h, _, w, _, outputs = cells.shape
    return cells.reshape(n, 2 * h, 2 * w, outputs).permute(0, 3, 1, 2)


def _cells(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The output's pixels by cell and phase: [n, rows, 2, columns, 2, C'], a view."""
    inputs, outputs, size, _ = weight.shape
    half = size // 2
    phases = weight.reshape(inputs, outputs, half, 2, half, 2).flip(2, 4)
    kernel = phases.permute(3, 5, 1, 0, 2, 4).reshape(4 * outputs, inputs, half, half)
    y = F.conv2d(x, kernel, bias.repeat(4), padding=half - 1)
    n, _, h, w = y.shape
    return y.permute(0, 2, 3, 1).reshape(n, h, w, 2, 2, outputs).transpose(2, 3)


def _written(cells: Tensor, shape: torch.Size) -> Tensor:
    """The cells as channels-last pictures of `shape`, zero beyond the last cell. No view: the next
    layer may work in place."""
    _, h, _, w, _, _ = cells.shape
    y = torch.empty(shape, dtype=cells.dtype, memory_format=torch.channels_last)
    if shape[2:] != (2 * h, 2 * w):
        y.zero_()
    pixels = y.permute(0, 2, 3, 1)[:, : 2 * h, : 2 * w]
    pixels.unflatten(2, (w, 2)).unflatten(1, (h, 2)).copy_(cells)
    return y


class _SubPixelForward(torch.autograd.Function):
    """On a CPU the transposed convolution's own backward pass is the faster one, and in half
    precision by far: a convolution with so few channels has none there that is made for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        n, _, h, w = x.shape
        size = weight.shape[2]
        shape = torch.Size((n, weight.shape[1], 2 * h + size - 2, 2 * w + size - 2))
        return _written(_cells(x, weight, bias), shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        wanted = ctx.needs_input_grad[:2]
        to_x, to_weight = gradients(gradient, x, weight, transposed=True, wanted=wanted)
        return to_x, to_weight, gradient.sum((0, 2, 3))


def as_product(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution without padding as one matrix product, of windows [..., K, K, C] and weights in
    the same order, which is that of both in memory (channels last)."""
    size, stride = layer.kernel_size[0], layer.stride[0]
    windows = x.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 4, 5, 1)
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(windows.flatten(3), weight, layer.bias).permute(0, 3, 1, 2)
