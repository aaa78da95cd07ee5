"""The recurrent state-space model: the only place where latent dynamics are computed.

    h_t = GRU(ELU(W [s_{t-1}, a_{t-1}]), h_{t-1})      deterministic
    s_t ~ prior(h_t)                                   in imagination
    s_t ~ posterior(h_t, e_t)                          from the image's embedding

`observe` is a scan of `posterior`, `imagine` a scan of `prior`. Products that do not depend on the
previous state (of actions and embeddings) are computed once for the whole sequence, and so are the
gradients of the weights inside `observe` (`one_gradient`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.config import Config
from dreamer.distributions import Normal
from dreamer.fast.one_gradient import one_gradient
from dreamer.networks import GRUCell, Layer, full_precision

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
        self.stoch_in = Layer(stoch, hidden, "elu", bias=False, fan_in=stoch + action_size)
        self.action_in = Layer(action_size, hidden, fan_in=stoch + action_size)
        self.deter_in = Layer(deter, hidden, "elu", bias=False, fan_in=deter + config.embed_size)
        self.embed_in = Layer(config.embed_size, hidden, fan_in=deter + config.embed_size)
        self.posterior_out = Layer(hidden, 2 * stoch)
        self.prior_in = Layer(deter, hidden, "elu")
        self.prior_out = Layer(hidden, 2 * stoch)
        self.gru = GRUCell(hidden, deter)

    def initial(self, count: int) -> State:
        """Zero states for `count` sequences, on the model's device: [count, ...]."""
        weight = self.prior_in.weight
        return State(
            weight.new_zeros(count, self.deter_size), weight.new_zeros(count, self.stoch_size)
        )

    def prior(self, prev: State, action: Tensor, noise: Tensor) -> State:
        """One step of imagination: `action` [..., A] is a_{t-1}, `noise` [..., S] draws s_t."""
        deter = self._deter(prev, self.action_in(action))
        return State(deter, self.prior_belief(deter).sample(noise))

    def posterior(
        self, prev: State, action: Tensor, embed: Tensor, noise: Tensor
    ) -> tuple[State, Normal]:
        """One step of filtering: `action` [..., A] is a_{t-1}, which led to o_t, seen as `embed`
        [..., E]; `noise` [..., S] draws s_t."""
        return self._posterior(prev, self.action_in(action), self.embed_in(embed), noise)

    def prior_belief(self, deter: Tensor) -> Normal:
        """The prior over s_t [..., S] given h_t [..., D]."""
        return _normal(self.prior_out(self.prior_in(deter)))

    def observe(
        self, embed: Tensor, action: Tensor, noise: Tensor, start: State | None = None
    ) -> Observed:
        """Filters sequences: `embed` [B, L, E] of o_t, `action` [B, L, A] that led to o_t,
        `noise` [B, L, S]; begins from `start` [B, ...], by default zeros."""
        action_in, embed_in = self.action_in(action), self.embed_in(embed)
        state, step = start or self.initial(embed.shape[0]), one_gradient(self)._posterior
        steps = []
        inputs = zip(action_in.unbind(1), embed_in.unbind(1), noise.unbind(1), strict=True)
        for action_t, embed_t, noise_t in inputs:
            state, belief = step(state, action_t, embed_t, noise_t)
            steps.append((*state, *belief))
        deter, stoch, mean, std = (torch.stack(x, 1) for x in zip(*steps, strict=True))
        prior = self.prior_belief(deter)  # not part of the recurrence: one product for all steps
        return Observed(State(deter, stoch), Normal(mean, std), prior)

    def imagine(
        self, policy: Callable[[State, int], Tensor], start: State, noise: Tensor
    ) -> tuple[State, Tensor]:
        """Rolls the prior forward with a policy.

        From `start` [N, ...] and `noise` [H, N, S], returns the states s_1..s_H [H, N, ...], the
        start not included (released code), and the actions [H, N, A] that led to them.
        `policy(state, step)` gives the action at a state.
        """
        state, steps = start, []
        for step, noise_t in enumerate(noise.unbind(0)):
            action = policy(state, step)
            state = self.prior(state, action, noise_t)
            steps.append((*state, action))
        deter, stoch, actions = (torch.stack(x) for x in zip(*steps, strict=True))
        return State(deter, stoch), actions

    def _deter(self, prev: State, action_in: Tensor) -> Tensor:
        return self.gru(self.stoch_in(prev.stoch, plus=action_in), prev.deter)

    def _posterior(
        self, prev: State, action_in: Tensor, embed_in: Tensor, noise: Tensor
    ) -> tuple[State, Normal]:
        deter = self._deter(prev, action_in)
        belief = _normal(self.posterior_out(self.deter_in(deter, plus=embed_in)))
        return State(deter, belief.sample(noise)), belief


def _normal(raw: Tensor) -> Normal:
    mean, std = full_precision(raw).chunk(2, -1)
    if not std.is_cuda:  # on a processor softplus of a part of each row takes ten times as long
        std = std.contiguous()
    return Normal(mean, F.softplus(std) + MIN_STD)
