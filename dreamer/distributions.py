"""Distributions as plain tuples of tensors; noise is always passed in, so results are functions.

Noise comes from a standard Normal, of the shape of the sample. That keeps sampling reparameterised,
lets tests compare gradients with finite differences, and lets a captured graph replay new noise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Normal(NamedTuple):
    """Independent Normals over the last axis."""

    mean: Tensor  # [..., X]
    std: Tensor  # [..., X], positive

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised sample [..., X] from `noise` [..., X]."""
        return self.mean + self.std * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density [...] of `value` [..., X], summed over the last axis."""
        z = (value - self.mean) / self.std
        return (-0.5 * z.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def normal_kl(p: Normal, q: Normal) -> Tensor:
    """KL(p || q) in nats [...], summed over the last axis."""
    ratio = (p.std / q.std).square()
    distance = ((p.mean - q.mean) / q.std).square()
    return 0.5 * (ratio + distance - 1 - ratio.log()).sum(-1)


# The released code's log-density clips actions at 0.99999997 before it inverts tanh. In single
# precision that number is 1 - 2^-24, whose raw value is about 8.66.
RAW_EDGE = math.atanh(1 - 2.0**-24)


class TanhNormal(NamedTuple):
    """A Normal squashed into (-1, 1) by tanh (Eq. 3)."""

    mean: Tensor  # [..., A] before tanh
    std: Tensor  # [..., A]

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised action [..., A] from `noise` [..., A]."""
        return torch.tanh(self.mean + self.std * noise)

    def mode(self, noise: Tensor) -> Tensor:
        """The most likely of K samples (released code): `noise` [K, ..., A] -> [..., A].

        The clamp makes saturated samples equal, and of equal ones the first wins: a wide policy's
        mode is the sign of its mean. Without the clamp the farthest sample would win, with a
        partly random sign.
        """
        raw = self.mean + self.std * noise
        best = self.log_prob_raw(raw.clamp(-RAW_EDGE, RAW_EDGE)).argmax(0)  # [...]
        index = best[None, ..., None].expand(1, *raw.shape[1:])
        return torch.tanh(raw.gather(0, index)[0])

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density [...] of `action` [..., A]; finite also at -1 and 1, which are
        replaced by the nearest numbers inside."""
        edge = 1 - torch.finfo(action.dtype).eps
        return self.log_prob_raw(torch.atanh(action.clamp(-edge, edge)))

    def log_prob_raw(self, raw: Tensor) -> Tensor:
        """Log-density [...] of the action tanh(raw), from `raw` [..., A] itself.

        log(1 - tanh(x)^2) is written as 2 (log 2 - x - softplus(-2x)), which is exact where
        tanh(x) has rounded to 1.
        """
        log_slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
        return Normal(self.mean, self.std).log_prob(raw) - log_slope.sum(-1)


HALF_EDGE = 1 - 2.0**-12  # larger numbers round to 1 in half precision


def cut_saturated(action: Tensor) -> Tensor:
    """Tanh-Normal actions [..., A] as they are, but no gradient where they round to 1 or -1 in half
    precision.

    The released code computes in float16, where tanh has no slope there. This matters: Adam scales
    what is left of a saturated gradient up to full steps. They push the actor so far out that later
    rewards cannot bring it back. Without them it stays near the edge and can return.
    """
    return torch.where(action.detach().abs() > HALF_EDGE, action.detach(), action)


class OneHot(NamedTuple):
    """A choice among A actions, as a one-hot vector with straight-through gradients."""

    logits: Tensor  # [..., A]

    def sample(self, noise: Tensor) -> Tensor:
        """One-hot sample [..., A] from Normal `noise` [..., A].

        The value is a fair sample (Gumbel-max on the noise's quantiles); the gradient is that of
        the probabilities.
        """
        quantile = torch.special.ndtr(noise.double()).clamp(1e-12, 1 - 1e-12)
        gumbel = -torch.log(-torch.log(quantile)).to(noise.dtype)
        probs = self.logits.softmax(-1)
        return one_hot_max(self.logits + gumbel) + (probs - probs.detach())  # + 0 exactly

    def mode(self, noise: Tensor) -> Tensor:
        """The most likely action [..., A], one-hot; `noise` is not needed and ignored."""
        return one_hot_max(self.logits)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability [...] of the one-hot `action` [..., A]."""
        return (self.logits.log_softmax(-1) * action).sum(-1)


def one_hot_max(score: Tensor) -> Tensor:
    """One-hot [..., A] of the largest `score` [..., A]; no gradient."""
    return F.one_hot(score.argmax(-1), score.shape[-1]).to(score.dtype)
