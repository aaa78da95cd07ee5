"""Networks: image encoder and decoder, dense heads, the actor.

Images are [..., 64, 64, 3] at every interface. Inside, convolutions see them as channels-last
tensors, which is a view, not a copy. Initialised like the released code (Keras): Glorot-uniform
kernels, zero biases, orthogonal recurrent kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.config import IMAGE_SHAPE
from dreamer.distributions import OneHot, TanhNormal


def glorot_(weight: Tensor, fan_in: int, fan_out: int) -> None:
    """Fills `weight` uniformly within sqrt(6 / (fan_in + fan_out))."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(weight, -limit, limit)


def linear(inputs: int, outputs: int, *, bias: bool = True, fan_in: int | None = None) -> nn.Linear:
    """A Glorot-initialised linear layer.

    `fan_in` is the width of the whole input where this layer takes one part of it: a product
    W [x, y] may be written W_x x + W_y y, so that one part can be computed ahead of a loop.
    """
    layer = nn.Linear(inputs, outputs, bias=bias)
    glorot_(layer.weight, fan_in or inputs, outputs)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def full_precision(x: Tensor) -> Tensor:
    """What half-precision products hand to densities, losses and carries: single precision."""
    return x.float() if x.dtype == torch.bfloat16 else x


def relu(x: Tensor) -> Tensor:
    """ReLU, in place: a hardtanh without upper end, whose gradient takes a quarter of the time of
    relu's on a CPU."""
    return F.hardtanh(x, 0.0, math.inf, inplace=True)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x,
    "elu": lambda x: F.elu(x, inplace=True),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


class Product:
    """How layers are computed: here the plain way. Others give the same in less time somewhere."""

    FUSES = False  # whether `plus` and `then` cost nothing beside the product

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        plus: Tensor | None = None,
        then: str = "",
    ) -> Tensor:
        """then(x W^T + b + plus) [..., O] from x [..., I], weight [O, I], bias [O], plus [..., O];
        `then` names an activation."""
        y = self.linear(x, weight, bias)
        return self.activate(y if plus is None else y + plus, then)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def activate(self, x: Tensor, then: str) -> Tensor:
        """May overwrite x."""
        return ACTIVATIONS[then](x)


PLAIN = Product()


class Dense(nn.Sequential):
    """Linear layers and ELUs; its output is never in half precision."""

    def forward(self, x: Tensor, product: Product = PLAIN) -> Tensor:
        *hidden, last = (layer for layer in self if isinstance(layer, nn.Linear))
        for layer in hidden:
            x = product(x, layer.weight, layer.bias, then="elu")
        return full_precision(product(x, last.weight, last.bias))


def dense(inputs: int, outputs: int, units: int, layers: int) -> Dense:
    """`layers` hidden layers of `units` with ELU, then a linear output."""
    modules: list[nn.Module] = []
    for _ in range(layers):
        modules += [linear(inputs, units), nn.ELU()]
        inputs = units
    return Dense(*modules, linear(inputs, outputs))


def _prepare(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Keras' initialisation, and the memory layout of the images that the layer sees."""
    area = layer.kernel_size[0] * layer.kernel_size[1]
    glorot_(layer.weight, layer.in_channels * area, layer.out_channels * area)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)


def _as_product(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution without padding as one matrix product, of windows [..., K, K, C] and weights in
    the same order, which is that of both in memory (channels last)."""
    size, stride = layer.kernel_size[0], layer.stride[0]
    windows = x.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 4, 5, 1)
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
    return F.linear(windows.flatten(3), weight, layer.bias).permute(0, 3, 1, 2)


def to_float(image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images as the networks see them: x / 255 - 0.5."""
    return image.to(dtype).mul_(1 / 255).sub_(0.5)


def to_uint8(image: Tensor) -> Tensor:
    """The inverse of `to_float`, rounded and clipped."""
    return ((image.float() + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)


class Encoder(nn.Module):
    """Four convolutions, kernel 4, stride 2, no padding: 64 -> 31 -> 14 -> 6 -> 2 pixels."""

    FEW = 4  # images; for so few the processor's convolutions take up to twice as long as products

    def __init__(self, depth: int):
        super().__init__()
        channels = [IMAGE_SHAPE[2], depth, 2 * depth, 4 * depth, 8 * depth]
        self.layers = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], kernel_size=4, stride=2) for i in range(4)
        )
        for layer in self.layers:
            _prepare(layer)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """Image [..., 64, 64, 3], float -> embedding [..., E]."""
        x = image.reshape(-1, *IMAGE_SHAPE)
        acting = len(x) <= self.FEW and x.device.type == "cpu" and not torch.is_grad_enabled()
        x = x.permute(0, 3, 1, 2)  # channels last, a view
        for layer in self.layers:
            x = _as_product(layer, x) if acting else layer(x)  # type: ignore[arg-type]
            x = relu(x)
        return x.permute(0, 2, 3, 1).reshape(*image.shape[:-3], -1)


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
    inputs, outputs, size, _ = weight.shape
    half = size // 2
    phases = weight.reshape(inputs, outputs, half, 2, half, 2).flip(2, 4)
    kernel = phases.permute(3, 5, 1, 0, 2, 4).reshape(4 * outputs, inputs, half, half)
    y = F.conv2d(x, kernel, bias.repeat(4), padding=half - 1)
    n, _, h, w = y.shape
    y = y.permute(0, 2, 3, 1).reshape(n, h, w, 2, 2, outputs)
    return y.transpose(2, 3).reshape(n, 2 * h, 2 * w, outputs).permute(0, 3, 1, 2)


class _SubPixelForward(torch.autograd.Function):
    """On a CPU the transposed convolution's own backward pass is the faster one, and in half
    precision by far: a convolution with so few channels has none there that is made for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return sub_pixel_transpose(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        stride, padding, dilation = [2, 2], [0, 0], [1, 1]
        to_x, to_weight, _ = torch.ops.aten.convolution_backward(
            *(gradient, x, weight, None, stride, padding, dilation),
            *(True, [0, 0], 1, [*ctx.needs_input_grad[:2], False]),
        )
        return to_x, to_weight, gradient.sum((0, 2, 3))  # oneDNN's own sum is less exact


class Decoder(nn.Module):
    """Feature -> linear 32*depth -> transposed convolutions: 1 -> 5 -> 13 -> 30 -> 64 pixels.

    The first transposed convolution sees one pixel: it is a linear layer, and written as one.
    """

    def __init__(self, feature_size: int, depth: int):
        super().__init__()
        self.inputs = linear(feature_size, 32 * depth)
        self.depth = depth
        self.first = nn.ConvTranspose2d(32 * depth, 4 * depth, kernel_size=5, stride=2)
        self.layers = nn.ModuleList(
            [
                Transpose(4 * depth, 2 * depth, kernel_size=5, stride=2),
                Transpose(2 * depth, depth, kernel_size=6, stride=2),
                SubPixelTranspose(depth, IMAGE_SHAPE[2], kernel_size=6, stride=2),
            ]
        )
        for layer in (self.first, *self.layers):
            _prepare(layer)

    def forward(self, feature: Tensor) -> Tensor:
        """Feature [..., D + S] -> image [..., 64, 64, 3]: the mean of a Normal with unit std."""
        x = self.inputs(feature).reshape(-1, 32 * self.depth)
        assert self.first.bias is not None
        kernel = self.first.weight.permute(2, 3, 1, 0).reshape(-1, 32 * self.depth)
        x = F.linear(x, kernel, self.first.bias.repeat(25))
        x = x.reshape(-1, 5, 5, 4 * self.depth).permute(0, 3, 1, 2)  # channels last, a view
        for layer in self.layers:
            x = layer(relu(x))
        return x.permute(0, 2, 3, 1).reshape(*feature.shape[:-1], *IMAGE_SHAPE)


class Actor(nn.Module):
    """Action distribution from a feature: a tanh-Normal (Eq. 3), or a one-hot choice."""

    MIN_STD = 1e-4
    MEAN_SCALE = 5.0

    def __init__(
        self,
        feature_size: int,
        action_size: int,
        *,
        discrete: bool,
        units: int,
        layers: int,
        init_std: float,
    ):
        super().__init__()
        self.discrete = discrete
        self.raw_init_std = math.log(math.expm1(init_std))
        self.network = dense(feature_size, action_size * (1 if discrete else 2), units, layers)

    def forward(self, feature: Tensor) -> TanhNormal | OneHot:
        """Feature [..., D + S] -> distribution over actions [..., A]."""
        raw = self.network(feature)
        if self.discrete:
            return OneHot(raw)
        mean, std = raw.chunk(2, -1)
        mean = self.MEAN_SCALE * torch.tanh(mean / self.MEAN_SCALE)
        std = F.softplus(std + self.raw_init_std) + self.MIN_STD
        return TanhNormal(mean, std)
