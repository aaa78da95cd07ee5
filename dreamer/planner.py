"""`planet`: no actor and no value network; actions are planned in latent space at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.config import Config, ConfigError
from dreamer.envs import ActionSpace
from dreamer.machine import mixed_precision
from dreamer.networks import Product
from dreamer.rssm import State
from dreamer.world_model import WorldModel

MIN_VARIANCE = 1e-6


def cross_entropy_method(
    objective: Callable[[Tensor, int], Tensor],
    mean: Tensor,
    *,
    candidates: int,
    elites: int,
    iterations: int,
    generator: torch.Generator,
) -> Tensor:
    """Maximises an objective over action sequences in [-1, 1].

    `mean` [n, T, A] is the first mean, with std 1. `objective(actions [n, K, T, A], iteration)`
    scores K candidates for each of n problems: [n, K]. Each iteration samples candidates, clips
    them, and refits mean and std = sqrt(var + 1e-6) to the best. Returns the last mean [n, T, A].
    """
    std = torch.ones_like(mean)
    n, steps, size = mean.shape
    for iteration in range(iterations):
        shape = (n, candidates, steps, size)
        noise = torch.randn(shape, generator=generator, device=mean.device, dtype=mean.dtype)
        actions = (mean[:, None] + std[:, None] * noise).clamp(-1, 1)
        best = objective(actions, iteration).topk(elites, dim=1).indices
        chosen = actions.gather(1, best[:, :, None, None].expand(n, elites, steps, size))
        mean = chosen.mean(1)
        std = (chosen.var(1, correction=0) + MIN_VARIANCE).sqrt()
    return mean


class Planet(nn.Module):
    """Acts by the cross-entropy method in the world model (PlaNet), anew at every step.

    The objective is the undiscounted sum of predicted rewards. Several environments are planned
    for in one batch. The interface is that of the behaviours in behaviour.py.
    """

    PLANS = True

    def __init__(self, config: Config, space: ActionSpace):
        super().__init__()
        if space.discrete:
            raise ConfigError("behaviour", "planet plans continuous actions; this task's are not")
        self.config, self.space = config, space

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {}

    def draw_noise(self, starts: int, generator: torch.Generator) -> None:
        """Nothing is learned by imagination."""

    def losses(self, model: WorldModel, states: State, noise: Any) -> tuple[dict, dict]:
        return {}, {}

    def after_update(self, updates: int) -> None:
        """Nothing follows."""

    def act(
        self, model: WorldModel, state: State, explore: bool, generator: torch.Generator
    ) -> Tensor:
        """The first action [n, A] of the best plan from `state` [n, ...]."""
        config, n = self.config, len(state.deter)
        count, steps = config.planner_candidates, config.planner_horizon

        product = fast_product(config, n * count, state.deter.device)

        def objective(actions: Tensor, iteration: int) -> Tensor:
            return self._imagined_reward(model, state, actions, generator, product)

        mean = state.deter.new_zeros(n, steps, self.space.size)
        with mixed_precision(config, mean.device):
            plan = cross_entropy_method(
                objective,
                mean,
                candidates=count,
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
        product: Product = F.linear,
    ) -> Tensor:
        """Sum of predicted rewards [n, K] of `actions` [n, K, T, A] from `state` [n, ...]."""
        n, count, steps, _ = actions.shape
        shape = (steps, n * count, self.config.stoch_size)
        noise = torch.randn(shape, generator=generator, device=actions.device)
        sequence = actions.permute(2, 0, 1, 3).flatten(1, 2)  # [T, n K, A]
        # A single state stays one row until its candidates differ: the first step is cheaper then.
        now = state if n == 1 else State(*(x.repeat_interleave(count, 0) for x in state))
        total = state.deter.new_zeros(n * count)
        # Not with `imagine`: only the sum is kept, so that a step fits into a processor's cache.
        for action_t, noise_t in zip(sequence, noise, strict=True):
            now = model.rssm.prior(now, action_t, noise_t, product)
            total = total + model.reward(now.feature, product)
        return total.reshape(n, count)


class PackedProduct:
    """`F.linear` without gradients, by oneDNN, each weight brought into its layout once: for many
    rows on a CPU a fifth faster. For as long as the weights stay as they are."""

    def __init__(self, dtype: torch.dtype, rows: int):
        self.dtype, self.rows = dtype, rows  # of the products
        self.packed: dict[int, tuple[Tensor, Tensor | None]] = {}  # id of a weight -> as packed

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(self.dtype)
        if id(weight) not in self.packed:
            layout = torch.ops.mkldnn._reorder_linear_weight(weight.to(self.dtype), self.rows)
            self.packed[id(weight)] = layout, None if bias is None else bias.to(self.dtype)
        y = torch.ops.mkldnn._linear_pointwise(rows, *self.packed[id(weight)], "none", [], "")
        return y.reshape(*x.shape[:-1], -1)


def fast_product(config: Config, rows: int, device: torch.device) -> Product:
    """The fastest product of so many rows and the weights as they are now: `PackedProduct`, where
    this torch and this processor have what it takes, else `F.linear`."""
    half = config.precision == "bf16"
    there = all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )
    if device.type != "cpu" or not there or not torch.backends.mkldnn.is_available():
        return F.linear
    if half and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return F.linear
    return PackedProduct(torch.bfloat16 if half else torch.float32, rows)
