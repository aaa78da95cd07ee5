"""`planet`: no actor and no value network; actions are planned in latent space at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dreamer.behaviour import Behaviour
from dreamer.config import Config
from dreamer.envs.simulators import ActionSpace
from dreamer.errors import ConfigError
from dreamer.fast.fused import available, fused
from dreamer.machine import mixed_precision
from dreamer.rssm import State
from dreamer.seeding import randn
from dreamer.world_model import WorldModel

MIN_VARIANCE = 1e-6


def cross_entropy_method(
    objective: Callable[[Tensor], Tensor],
    mean: Tensor,
    *,
    candidates: int,
    elites: int,
    iterations: int,
    generator: torch.Generator,
) -> Tensor:
    """Maximises an objective over action sequences in [-1, 1].

    `mean` [n, T, A] is the first mean, with std 1. `objective(actions [n, K, T, A])` scores K
    candidates for each of n problems: [n, K]. Each iteration samples candidates, clips them, and
    refits mean and std = sqrt(var + 1e-6) to the best. Returns the last mean [n, T, A].
    """
    std = torch.ones_like(mean)
    n, steps, size = mean.shape
    for _ in range(iterations):
        shape = (n, candidates, steps, size)
        noise = torch.randn(shape, generator=generator, device=mean.device, dtype=mean.dtype)
        actions = (mean[:, None] + std[:, None] * noise).clamp(-1, 1)
        best = objective(actions).topk(elites, dim=1).indices
        chosen = actions.gather(1, best[:, :, None, None].expand(n, elites, steps, size))
        mean = chosen.mean(1)
        std = (chosen.var(1, correction=0) + MIN_VARIANCE).sqrt()
    return mean


class Planet(Behaviour):
    """Acts by the cross-entropy method in the world model (PlaNet), anew at every step.

    The objective is the undiscounted sum of predicted rewards. Several environments are planned
    for in one batch.
    """

    def __init__(self, config: Config, space: ActionSpace):
        super().__init__(config, space)
        if space.discrete:
            raise ConfigError("behaviour", "planet plans continuous actions; this task's are not")

    def act(
        self,
        model: WorldModel,
        state: State,
        explore: bool,
        generator: torch.Generator,
        fuse: bool = True,
    ) -> Tensor:
        """The first action [n, A] of the best plan from `state` [n, ...]. Uses fused layers where
        they are available, unless `fuse` is False.
        """
        config = self.config
        if fuse and available(state.deter.device):
            model = fused(model, half=config.precision == "bf16")

        mean = state.deter.new_zeros(len(state.deter), config.planner_horizon, self.space.size)
        with mixed_precision(config, mean.device):
            plan = cross_entropy_method(
                lambda actions: self._imagined_reward(model, state, actions, generator),
                mean,
                candidates=config.planner_candidates,
                elites=config.planner_elites,
                iterations=config.planner_iterations,
                generator=generator,
            )
        return plan[:, 0]

    def _imagined_reward(
        self,
        model: WorldModel,
        state: State,
        actions: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Sum of predicted rewards [n, K] of `actions` [n, K, T, A] from `state` [n, ...]."""
        n, count, steps, _ = actions.shape
        noise = randn(generator, steps, n * count, self.config.stoch_size)
        sequence = actions.permute(2, 0, 1, 3).flatten(1, 2)  # [T, n K, A]
        # A single state stays one row until its candidates differ: the first step is cheaper then.
        now = state if n == 1 else State(*(x.repeat_interleave(count, 0) for x in state))
        total = state.deter.new_zeros(n * count)
        # Not with `imagine`: only the sum is kept, so that a step fits into a processor's cache.
        for action_t, noise_t in zip(sequence, noise, strict=True):
            now = model.rssm.prior(now, action_t, noise_t)
            total = total + model.reward(now.feature)
        return total.reshape(n, count)
