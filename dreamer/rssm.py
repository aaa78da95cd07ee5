"""The recurrent state-space model: the only place where latent dynamics are computed.

    h_t = GRU(ELU(W [s_{t-1}, a_{t-1}]), h_{t-1})      deterministic
    s_t ~ prior(h_t)                                   in imagination
    s_t ~ posterior(h_t, e_t)                          from the image's embedding

`observe` is a scan of `posterior`, `imagine` a scan of `prior`. Products that do not depend on the
previous state (of actions and embeddings) are computed once for the whole sequence, and so are the
gradients of the weights inside `observe` (`OneGradient`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.config import Config
from dreamer.distributions import Normal
from dreamer.fast.products import matmul
from dreamer.networks import PLAIN, Product, full_precision, glorot_, linear

MIN_STD = 0.1


class State(NamedTuple):
    """The model state (s_t, h_t)."""

    deter: Tensor  # [..., D] h_t
    stoch: Tensor  # [..., S] s_t

    @property
    def feature(self) -> Tensor:
        """[..., S + D]: what every head sees."""
        return torch.cat([self.stoch, self.deter], -1)

    def detach(self) -> State:
        return State(self.deter.detach(), self.stoch.detach())


class Observed(NamedTuple):
    """What `observe` returns for a batch of sequences."""

    states: State  # [B, L, ...] sampled from the posterior
    posterior: Normal  # [B, L, S] over s_t, given o_t
    prior: Normal  # [B, L, S] over s_t, not given o_t


class RSSM(nn.Module):
    def __init__(self, config: Config, action_size: int):
        super().__init__()
        deter, stoch, hidden = config.deter_size, config.stoch_size, config.hidden_size
        self.deter_size, self.stoch_size = deter, stoch
        # W [s, a] and W [h, e], each in two parts; the bias sits in the part computed ahead.
        self.stoch_in = linear(stoch, hidden, bias=False, fan_in=stoch + action_size)
        self.action_in = linear(action_size, hidden, fan_in=stoch + action_size)
        self.deter_in = linear(deter, hidden, bias=False, fan_in=deter + config.embed_size)
        self.embed_in = linear(config.embed_size, hidden, fan_in=deter + config.embed_size)
        self.posterior_out = linear(hidden, 2 * stoch)
        self.prior_in = linear(deter, hidden)
        self.prior_out = linear(hidden, 2 * stoch)
        self.gru = GRUCell(hidden, deter)
        glorot_(self.gru.weight_ih, hidden, 3 * deter)
        nn.init.orthogonal_(self.gru.weight_hh)
        nn.init.zeros_(self.gru.bias_ih)
        nn.init.zeros_(self.gru.bias_hh)

    def initial(self, count: int) -> State:
        """Zero states for `count` sequences, on the model's device: [count, ...]."""
        weight = self.prior_in.weight
        return State(
            weight.new_zeros(count, self.deter_size), weight.new_zeros(count, self.stoch_size)
        )

    def prior(self, prev: State, action: Tensor, noise: Tensor, product: Product = PLAIN) -> State:
        """One step of imagination: `action` [..., A] is a_{t-1}, `noise` [..., S] draws s_t."""
        action_in = product(action, self.action_in.weight, self.action_in.bias)
        deter = self._deter(prev, action_in, product)
        return State(deter, self.prior_belief(deter, product).sample(noise))

    def posterior(
        self, prev: State, action: Tensor, embed: Tensor, noise: Tensor
    ) -> tuple[State, Normal]:
        """One step of filtering: `action` [..., A] is a_{t-1}, which led to o_t, seen as `embed`
        [..., E]; `noise` [..., S] draws s_t."""
        return self._posterior(prev, self.action_in(action), self.embed_in(embed), noise)

    def prior_belief(self, deter: Tensor, product: Product = PLAIN) -> Normal:
        """The prior over s_t [..., S] given h_t [..., D]."""
        hidden = product(deter, self.prior_in.weight, self.prior_in.bias, then="elu")
        return _normal(product(hidden, self.prior_out.weight, self.prior_out.bias))

    def observe(
        self, embed: Tensor, action: Tensor, noise: Tensor, start: State | None = None
    ) -> Observed:
        """Filters sequences: `embed` [B, L, E] of o_t, `action` [B, L, A] that led to o_t,
        `noise` [B, L, S]; begins from `start` [B, ...], by default zeros."""
        action_in = self.action_in(action)
        embed_in = PLAIN(embed, self.embed_in.weight, self.embed_in.bias)
        state = start or self.initial(embed.shape[0])
        product = OneGradient() if torch.is_grad_enabled() else PLAIN
        steps = []
        inputs = zip(action_in.unbind(1), embed_in.unbind(1), noise.unbind(1), strict=True)
        for action_t, embed_t, noise_t in inputs:
            state, belief = self._posterior(state, action_t, embed_t, noise_t, product)
            steps.append((*state, *belief))
        deter, stoch, mean, std = (torch.stack(x, 1) for x in zip(*steps, strict=True))
        prior = self.prior_belief(deter)  # not part of the recurrence: one product for all steps
        return Observed(State(deter, stoch), Normal(mean, std), prior)

    def imagine(
        self,
        policy: Callable[[State, int], Tensor],
        start: State,
        noise: Tensor,
        product: Product = PLAIN,
    ) -> tuple[State, Tensor]:
        """Rolls the prior forward with a policy.

        From `start` [N, ...] and `noise` [H, N, S], returns the states s_1..s_H [H, N, ...], the
        start not included (released code), and the actions [H, N, A] that led to them.
        `policy(state, step)` gives the action at a state.
        """
        state, steps = start, []
        for step, noise_t in enumerate(noise.unbind(0)):
            action = policy(state, step)
            state = self.prior(state, action, noise_t, product)
            steps.append((*state, action))
        deter, stoch, actions = (torch.stack(x) for x in zip(*steps, strict=True))
        return State(deter, stoch), actions

    def _deter(self, prev: State, action_in: Tensor, product: Product = PLAIN) -> Tensor:
        hidden = product(prev.stoch, self.stoch_in.weight, plus=action_in, then="elu")
        return self.gru(hidden, prev.deter, product)

    def _posterior(
        self,
        prev: State,
        action_in: Tensor,
        embed_in: Tensor,
        noise: Tensor,
        product: Product = PLAIN,
    ) -> tuple[State, Normal]:
        deter = self._deter(prev, action_in, product)
        hidden = product(deter, self.deter_in.weight, plus=embed_in, then="elu")
        belief = _normal(product(hidden, self.posterior_out.weight, self.posterior_out.bias))
        return State(deter, belief.sample(noise)), belief


class GRUCell(nn.GRUCell):
    """torch's GRU cell, which resets after the product like the released code's (Keras'), with its
    two products as an argument, and its carry in single precision where they are in half."""

    def forward(  # type: ignore[override]
        self, x: Tensor, deter: Tensor, product: Product = PLAIN
    ) -> Tensor:
        """x [..., hidden] and h_{t-1} [..., D] -> h_t [..., D]."""
        if product.FUSES:
            return self._by_parts(x, deter, product)
        inputs = full_precision(product(x, self.weight_ih, self.bias_ih))
        hidden = full_precision(product(deter, self.weight_hh, self.bias_hh))
        if inputs.is_cuda and inputs.shape == hidden.shape and inputs.dim() == 2:
            # What torch's cell calls there: one kernel.
            return torch.ops.aten._thnn_fused_gru_cell(inputs, hidden, deter)[0]
        sizes = [2 * self.hidden_size, self.hidden_size]
        (gates_x, new_x), (gates_h, new_h) = inputs.split(sizes, -1), hidden.split(sizes, -1)
        reset, keep = torch.sigmoid(gates_x + gates_h).chunk(2, -1)
        new = product.activate(torch.addcmul(new_x, reset, new_h), "tanh")
        return torch.lerp(new, deter, keep)

    def _by_parts(self, x: Tensor, deter: Tensor, product: Product) -> Tensor:
        """The same with the gates' sums and activations inside of products."""
        cut = [2 * self.hidden_size, self.hidden_size]
        gates_x, new_x = zip(self.weight_ih.split(cut), self.bias_ih.split(cut), strict=True)
        gates_h, new_h = zip(self.weight_hh.split(cut), self.bias_hh.split(cut), strict=True)
        gates = product(x, *gates_x, plus=product(deter, *gates_h), then="sigmoid")
        reset, keep = gates.chunk(2, -1)
        new = product(x, *new_x, plus=reset * product(deter, *new_h), then="tanh")
        return torch.lerp(full_precision(new), deter, full_precision(keep))


class OneGradient(Product):
    """The product for the steps of one scan, with one product for each weight's gradient.

    Autograd computes a weight's gradient step by step: for each layer and step a small product, a
    sum for the bias and additions to what the other steps gave. Here only the chain of input
    gradients runs step by step; each step puts its input and its gradient aside, and one product
    over all of them follows when the last has done so.
    """

    def __init__(self) -> None:
        self.layers: dict[int, tuple] = {}  # id of a weight -> what its steps share

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
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


def _normal(raw: Tensor) -> Normal:
    mean, std = full_precision(raw).chunk(2, -1)
    if not std.is_cuda:  # on a processor softplus of a part of each row takes ten times as long
        std = std.contiguous()
    return Normal(mean, F.softplus(std) + MIN_STD)
