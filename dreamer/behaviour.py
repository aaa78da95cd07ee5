"""Behaviours learned by latent imagination: `dreamer` (actor and value) and `no_value` (actor).

`planet`, which plans instead of learning, is in planner.py. What other modules need to know about
a behaviour is on its card (variants.py).
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dreamer.config import Config
from dreamer.distributions import cut_saturated
from dreamer.envs.simulators import ActionSpace
from dreamer.fast.one_gradient import one_gradient
from dreamer.networks import Actor, Dense
from dreamer.returns import cumulative_weights, lambda_return, reward_sum
from dreamer.rssm import State
from dreamer.seeding import randn
from dreamer.views import frozen
from dreamer.world_model import WorldModel

MODE_SAMPLES = 100  # of which the most likely one is the mode action (released code)

Named = dict[str, Tensor]


class ImaginationNoise(NamedTuple):
    """Standard Normal noise of one imagination."""

    stoch: Tensor  # [H, N, S] draws the states
    action: Tensor  # [H, N, A] draws the actions


class Imagined(NamedTuple):
    """Trajectories s_1..s_H of the policy in the model, the start not included."""

    feature: Tensor  # [H, N, S + D]
    reward: Tensor  # [H, N] expected on arriving at each state
    discount: Tensor  # [H, N] gamma, times the probability that the episode goes on


class Behaviour(nn.Module):
    """A way to choose actions, made from (config, action space). Each has a card in variants.py.
    One that learns nothing needs `act` alone."""

    def __init__(self, config: Config, space: ActionSpace):
        super().__init__()
        self.config, self.space = config, space

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Name of a group -> the parameters that one optimiser changes."""
        return {}

    def draw_noise(self, starts: int, generator: torch.Generator) -> Any:
        """All that `losses` draws from, for N = `starts` states: a tuple of tensors, or None."""
        return None

    def losses(self, model: WorldModel, states: State, noise: Any) -> tuple[Named, Named]:
        """From states [N, ...]: group -> its loss, and name -> quantity to watch."""
        return {}, {}

    def after_update(self, updates: int) -> None:
        """What follows update number `updates`, counted from 1."""

    def act(
        self, model: WorldModel, state: State, explore: bool, generator: torch.Generator
    ) -> Tensor:
        """The action [n, A] at `state` [n, ...], before exploration noise; without gradients."""
        raise NotImplementedError


class ImaginedActor(Behaviour):
    """An actor and its rollout in the model. Subclasses add the losses."""

    def __init__(self, config: Config, space: ActionSpace):
        super().__init__(config, space)
        self.cuts_saturated = config.actor_gradient == "half" and not space.discrete
        self.actor = Actor(config, space.size, space.discrete)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"actor": list(self.actor.parameters())}

    def draw_noise(self, starts: int, generator: torch.Generator) -> ImaginationNoise:
        shape = self.config.horizon, starts
        return ImaginationNoise(
            randn(generator, *shape, self.config.stoch_size),
            randn(generator, *shape, self.space.size),
        )

    def imagine(self, model: WorldModel, states: State, noise: ImaginationNoise) -> Imagined:
        """Rolls the policy out from states [N, ...] in the frozen model.

        The policy sees stop-gradient features: its gradient flows through the actions into the
        states that follow, and from there into rewards and values.
        """
        model, actor = frozen(model), one_gradient(self.actor)

        def policy(state: State, step: int) -> Tensor:
            action = actor(state.feature.detach()).sample(noise.action[step])
            return cut_saturated(action) if self.cuts_saturated else action

        imagined, _ = model.rssm.imagine(policy, states, noise.stoch)
        feature = imagined.feature
        return Imagined(feature, model.reward(feature), model.discount(feature))

    def act(
        self, model: WorldModel, state: State, explore: bool, generator: torch.Generator
    ) -> Tensor:
        """Action [n, A] at `state` [n, ...]: the mode, or while exploring as configured."""
        action, shape = self.actor(state.feature), (len(state.deter), self.space.size)
        if explore and self.config.exploration_action == "sample":
            return action.sample(randn(generator, *shape))
        return action.mode(randn(generator, MODE_SAMPLES, *shape))


class NoValue(ImaginedActor):
    """The actor maximises imagined rewards up to the horizon and ignores the rest (Eq. 4)."""

    def losses(
        self, model: WorldModel, states: State, noise: ImaginationNoise
    ) -> tuple[Named, Named]:
        imagined = self.imagine(model, states, noise)
        discount = imagined.discount * (self.config.no_value_discount / self.config.discount)
        returns = reward_sum(imagined.reward, discount)
        loss = -(cumulative_weights(discount) * returns).mean()
        watched = {"actor_loss": loss, "imagined_reward": imagined.reward.mean()}
        return {"actor": loss}, watched


class Dreamer(ImaginedActor):
    """The actor maximises V_lambda (Eq. 6), which the value network extends beyond the horizon;
    the value network regresses on it (Algorithm 1, lines 12 to 14)."""

    def __init__(self, config: Config, space: ActionSpace):
        super().__init__(config, space)
        self.value = Dense(config.feature_size, 1, config.dense_units, config.value_layers)
        self.slow_value = copy.deepcopy(self.value) if config.value_target == "slow" else None

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {**super().parameter_groups(), "value": list(self.value.parameters())}

    def losses(
        self, model: WorldModel, states: State, noise: ImaginationNoise
    ) -> tuple[Named, Named]:
        imagined = self.imagine(model, states, noise)
        valued = self.value if self.slow_value is None else self.slow_value
        target = frozen(valued)(imagined.feature).squeeze(-1)
        discount = imagined.discount[:-1]
        returns = lambda_return(
            imagined.reward[:-1], target[1:], discount, self.config.return_lambda
        )
        weight = cumulative_weights(discount)
        actor_loss = -(weight * returns).mean()
        value = self.value(imagined.feature.detach()).squeeze(-1)
        value_loss = 0.5 * (weight * (value[:-1] - returns.detach()).square()).mean()
        watched = {
            "actor_loss": actor_loss,
            "value_loss": value_loss,
            "imagined_reward": imagined.reward.mean(),
            "imagined_value": value.mean(),
        }
        return {"actor": actor_loss, "value": value_loss}, watched

    def after_update(self, updates: int) -> None:
        """Every so many updates the slow value network becomes the current one (submission)."""
        if self.slow_value is not None and updates % self.config.slow_value_every_updates == 0:
            self.slow_value.load_state_dict(self.value.state_dict())
