"""Value estimates of imagined trajectories: pure functions of [H, N] tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_return(
    reward: Tensor, next_value: Tensor, discount: Tensor, return_lambda: float
) -> Tensor:
    """V_lambda (Eq. 6): V_t = r_t + gamma_t [(1 - lambda) v_{t+1} + lambda V_{t+1}].

    `reward`, `next_value` (v_{t+1}) and `discount` (gamma_t) are [T, N]; beyond the last step V is
    v_{T+1}, `next_value[-1]`. Equal to the sum of the n-step estimates with weights
    (1 - lambda) lambda^(n-1), and lambda^(T-1) for the longest, which sum to 1. (As printed in the
    submission, Eq. 6 has lambda^n, whose weights sum to lambda; the final paper corrects it.)
    """
    one_step = reward + (1 - return_lambda) * discount * next_value
    value, values = next_value[-1], []
    for t in reversed(range(reward.shape[0])):
        value = one_step[t] + return_lambda * discount[t] * value
        values.append(value)
    return torch.stack(values[::-1])


def reward_sum(reward: Tensor, discount: Tensor) -> Tensor:
    """V_R (Eq. 4), generalised by a discount: rewards up to the horizon, nothing beyond. [T, N]."""
    return lambda_return(reward, torch.zeros_like(reward), discount, return_lambda=1.0)


def cumulative_weights(discount: Tensor) -> Tensor:
    """Probability that imagination is still within the episode: [T, N] -> [T, N], first weight 1.

    No gradient flows through it.
    """
    ones = torch.ones_like(discount[:1])
    return torch.cumprod(torch.cat([ones, discount[:-1]]), 0).detach()
