"""Networks: image encoder and decoder, dense heads, the actor.

Images are [..., 64, 64, 3] at every interface. Inside, convolutions see them as channels-last
tensors, which is a view, not a copy. Initialised like the released code (Keras): Glorot-uniform
kernels, zero biases, orthogonal recurrent kernels.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.config import IMAGE_SHAPE, Config
from dreamer.distributions import OneHot, TanhNormal
from dreamer.fast import products
from dreamer.fast.convolutions import Convolution, SubPixelTranspose, Transpose, as_product
from dreamer.fast.gru import gates_in_one_kernel, in_one_kernel


def glorot_(weight: Tensor, fan_in: int, fan_out: int) -> None:
    """Fills `weight` uniformly within sqrt(6 / (fan_in + fan_out))."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(weight, -limit, limit)


def full_precision(x: Tensor) -> Tensor:
    """Single precision: what densities, losses and carries take of a half-precision product."""
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


class Layer(nn.Linear):
    """activation(W x + b), Glorot-initialised.

    `fan_in` is the width of the whole input where this layer takes one part of it: a product
    W [x, y] may be written W_x x + W_y y, so that one part can be computed ahead of a loop. That
    part is `plus`. `product` computes W x + b; a view may put another one there (fast/).
    """

    product = staticmethod(products.linear)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: str = "",
        *,
        bias: bool = True,
        fan_in: int | None = None,
    ):
        super().__init__(inputs, outputs, bias=bias)
        self.activation = activation
        glorot_(self.weight, fan_in or inputs, outputs)
        if bias:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """x [..., I] and `plus` [..., O] -> activation(W x + b + plus) [..., O]."""
        y = self.product(x, self.weight, self.bias)
        return ACTIVATIONS[self.activation](y if plus is None else y + plus)


class GRUCell(nn.GRUCell):
    """torch's GRU cell, which resets after the product like the released code's (Keras'), with its
    carry in single precision where products are in half."""

    product = staticmethod(products.linear)

    def __init__(self, inputs: int, size: int):
        super().__init__(inputs, size)
        glorot_(self.weight_ih, inputs, 3 * size)
        nn.init.orthogonal_(self.weight_hh)
        nn.init.zeros_(self.bias_ih)
        nn.init.zeros_(self.bias_hh)

    def forward(self, x: Tensor, deter: Tensor) -> Tensor:  # type: ignore[override]
        """x [..., I] and h_{t-1} [..., D] -> h_t [..., D]."""
        inputs = full_precision(self.product(x, self.weight_ih, self.bias_ih))
        hidden = full_precision(self.product(deter, self.weight_hh, self.bias_hh))
        if in_one_kernel(inputs, hidden):
            return gates_in_one_kernel(inputs, hidden, deter)
        gates = [2 * self.hidden_size, self.hidden_size]
        (gates_x, new_x), (gates_h, new_h) = inputs.split(gates, -1), hidden.split(gates, -1)
        reset, keep = torch.sigmoid(gates_x + gates_h).chunk(2, -1)
        new = torch.tanh(torch.addcmul(new_x, reset, new_h))
        return torch.lerp(new, deter, keep)


class Dense(nn.Sequential):
    """`layers` hidden layers of `units` with ELU, then a linear output, never in half precision."""

    def __init__(self, inputs: int, outputs: int, units: int, layers: int):
        sizes = [inputs] + [units] * layers
        parts = [Layer(size, units, "elu") for size in sizes[:-1]] + [Layer(sizes[-1], outputs)]
        # Names of checkpoints, where activations once had the odd numbers.
        super().__init__(OrderedDict((str(2 * i), part) for i, part in enumerate(parts)))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] -> [..., O]."""
        # As rows: autograd copies a view several times where an activation works on it in place.
        y = super().forward(x.reshape(-1, x.shape[-1]))
        return full_precision(y).reshape(*x.shape[:-1], y.shape[-1])


def _prepare(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Keras' initialisation, and the memory layout of the images that the layer sees."""
    area = layer.kernel_size[0] * layer.kernel_size[1]
    glorot_(layer.weight, layer.in_channels * area, layer.out_channels * area)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)


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
            Convolution(channels[i], channels[i + 1], kernel_size=4, stride=2) for i in range(4)
        )
        for layer in self.layers:
            _prepare(layer)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """Image [..., 64, 64, 3], float -> embedding [..., E]."""
        x = image.reshape(-1, *IMAGE_SHAPE)
        acting = len(x) <= self.FEW and x.device.type == "cpu" and not torch.is_grad_enabled()
        x = x.permute(0, 3, 1, 2)  # channels last, a view
        for layer in self.layers:
            x = as_product(layer, x) if acting else layer(x)  # type: ignore[arg-type]
            x = relu(x)
        return x.permute(0, 2, 3, 1).reshape(*image.shape[:-3], -1)


class Decoder(nn.Module):
    """Feature -> linear 32*depth -> transposed convolutions: 1 -> 5 -> 13 -> 30 -> 64 pixels.

    The first transposed convolution sees one pixel: it is a linear layer, and written as one.
    """

    def __init__(self, feature_size: int, depth: int):
        super().__init__()
        self.inputs = Layer(feature_size, 32 * depth)
        self.depth = depth
        self.first = nn.ConvTranspose2d(32 * depth, 4 * depth, kernel_size=5, stride=2)
        self.layers = nn.ModuleList(
            [
                Transpose(4 * depth, 2 * depth, kernel_size=5, stride=2),
                SubPixelTranspose(2 * depth, depth, kernel_size=6, stride=2),
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
        x = products.linear(x, kernel, self.first.bias.repeat(25))
        x = x.reshape(-1, 5, 5, 4 * self.depth).permute(0, 3, 1, 2)  # channels last, a view
        for layer in self.layers:
            x = layer(relu(x))
        return x.permute(0, 2, 3, 1).reshape(*feature.shape[:-1], *IMAGE_SHAPE)


class Actor(nn.Module):
    """Action distribution from a feature: a tanh-Normal (Eq. 3), or a one-hot choice."""

    MIN_STD = 1e-4
    MEAN_SCALE = 5.0

    def __init__(self, config: Config, action_size: int, discrete: bool):
        super().__init__()
        self.discrete = discrete
        self.raw_init_std = math.log(math.expm1(config.actor_init_std))
        outputs = action_size if discrete else 2 * action_size
        size, units, layers = config.feature_size, config.dense_units, config.actor_layers
        self.network = Dense(size, outputs, units, layers)

    def forward(self, feature: Tensor) -> TanhNormal | OneHot:
        """Feature [..., D + S] -> distribution over actions [..., A]."""
        raw = self.network(feature)
        if self.discrete:
            return OneHot(raw)
        mean, std = raw.chunk(2, -1)
        mean = self.MEAN_SCALE * torch.tanh(mean / self.MEAN_SCALE)
        std = F.softplus(std + self.raw_init_std) + self.MIN_STD
        return TanhNormal(mean, std)
