"""The agent: world model and behaviour wired together; acts, and learns from batches.

tests/plain_update.py has the whole update on one page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dreamer.behaviour import Behaviour
from dreamer.config import Config
from dreamer.distributions import one_hot_max
from dreamer.envs.simulators import ActionSpace
from dreamer.errors import ConfigError
from dreamer.fast.cuda_graph import Graphed
from dreamer.machine import mixed_precision
from dreamer.networks import to_float, to_uint8
from dreamer.replay import Batch
from dreamer.rssm import State
from dreamer.seeding import randn, stream_seed, torch_generator
from dreamer.variants import behaviour_card, load_class
from dreamer.world_model import WorldModel


class Memory(NamedTuple):
    """What the policy carries from one step to the next."""

    state: State  # [n, ...] s_{t-1}, h_{t-1}
    action: Tensor  # [n, A] a_{t-1}


class UpdateNoise(NamedTuple):
    """All randomness of one update."""

    posterior: Tensor  # [B, L, S]
    imagination: Any  # what the behaviour's draw_noise gave


class Agent:
    """Learns by `update`, acts by `policy`; counts and logs nothing."""

    def __init__(self, config: Config, space: ActionSpace, device: torch.device | str = "cpu"):
        self.config, self.space, self.device = config, space, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(config.seed, "initialise", 0))
            self.model = WorldModel(config, space.size).to(self.device)
            self.card = behaviour_card(config.behaviour)
            self.behaviour: Behaviour = load_class(self.card)(config, space).to(self.device)
        self.parameters = self._parameter_groups()
        self.optimisers = {name: self._adam(name) for name in self.parameters}
        self._learn = self._learner()

    def _parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = {"model": self.model.model_parameters()}
        if self.model.probe is not None:
            groups["probe"] = list(self.model.probe.parameters())
        learned, card = self.behaviour.parameter_groups(), self.card
        if set(learned) != set(card.learning_rates) or not set(card.acts_with) <= set(learned):
            raise ConfigError(
                "behaviour",
                f"{self.config.behaviour} learns {sorted(learned)}, but its card has the learning "
                f"rates of {sorted(card.learning_rates)} and acts with {sorted(card.acts_with)}",
            )
        return {**groups, **learned}

    def _adam(self, group: str) -> torch.optim.Adam:
        """On a GPU the learning rate is a tensor, since a captured graph reads it at every replay:
        change it in place."""
        setting = self.card.learning_rates.get(group, "model_learning_rate")  # model and probe
        value = getattr(self.config, setting)
        cuda = self.device.type == "cuda"
        rate = torch.tensor(value, device=self.device) if cuda else value
        parameters, epsilon = self.parameters[group], self.config.adam_epsilon
        return torch.optim.Adam(parameters, lr=rate, eps=epsilon, fused=True, capturable=cuda)

    def _learner(self) -> Callable[[Batch, UpdateNoise], dict[str, Tensor]]:
        """`learn`; on a GPU replayed as one CUDA graph. Make a new one when weights or Adam's
        averages move in memory."""
        graph = self.device.type == "cuda" and self.config.cuda_graph == "auto"
        return Graphed(self.learn) if graph else self.learn

    # Learning.

    def draw_noise(self, update: int) -> UpdateNoise:
        """The randomness of update number `update`, a pure function of the run's seed."""
        config = self.config
        generator = torch_generator(config.seed, "update", update, self.device)
        posterior = randn(generator, config.batch_size, config.length, config.stoch_size)
        length = config.length - 1 if config.discount_head else config.length
        noise = self.behaviour.draw_noise(config.batch_size * length, generator)
        return UpdateNoise(posterior, noise)

    def losses(
        self, batch: Batch, noise: UpdateNoise
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(group -> its loss, name -> quantity to watch), all from the same weights."""
        model = self.model.losses(batch, noise.posterior)
        losses = {"model": model.total}
        if model.probe is not None:
            losses["probe"] = model.probe
        learned, watched = self.behaviour.losses(
            self.model, self.starts(model.states), noise.imagination
        )
        return {**losses, **learned}, {**model.parts, **watched}

    def starts(self, states: State) -> State:
        """States [N, ...] that imagination starts from: all of [B, L, ...], without each sequence's
        last where episodes can end early, since that one may be an end (released code)."""
        if self.config.discount_head:
            states = State(*(x[:, :-1] for x in states))
        return State(*(x.flatten(0, 1) for x in states))

    def update(self, batch: Batch, update: int) -> dict[str, Tensor]:
        """One gradient update of every group from `batch`; returns quantities to watch (detached).

        `update` numbers the updates from 0.
        """
        batch = Batch(*(x.to(self.device, non_blocking=True) for x in batch))
        watched = self._learn(batch, self.draw_noise(update))
        self.behaviour.after_update(update + 1)
        return watched

    def learn(self, batch: Batch, noise: UpdateNoise) -> dict[str, Tensor]:
        """The update itself. All of it runs on the device and nothing waits for the device
        (fast/cuda_graph.py).

        Each loss changes the parameters of its own group only. Gradients are computed for that
        group alone: the actor's loss passes through the model and gives it none.
        """
        with mixed_precision(self.config, self.device):
            losses, watched = self.losses(batch, noise)
        for name, loss in losses.items():
            gradients = torch.autograd.grad(loss, self.parameters[name])
            for parameter, gradient in zip(self.parameters[name], gradients, strict=True):
                parameter.grad = like(parameter, gradient)
        for name, optimiser in self.optimisers.items():
            norm = nn.utils.clip_grad_norm_(self.parameters[name], self.config.gradient_clip_norm)
            watched[f"{name}_gradient_norm"] = norm
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return {name: value.detach() for name, value in watched.items()}

    # Acting.

    def initial_memory(self, count: int) -> Memory:
        """What the policy knows before the first step of `count` episodes."""
        action = torch.zeros(count, self.space.size, device=self.device)
        return Memory(self.model.rssm.initial(count), action)

    @torch.no_grad()
    def policy(
        self, image: np.ndarray, memory: Memory, generator: torch.Generator, explore: float | None
    ) -> tuple[np.ndarray, Memory]:
        """Actions [n, A] for images uint8 [n, 64, 64, 3], and the memory for the next step.

        `explore` None: the mode action, no noise. Else: the amount of exploration, a std for
        continuous actions, a probability of a random one for discrete actions.
        """
        pixels = to_float(torch.from_numpy(image).to(self.device))
        noise = randn(generator, len(image), self.config.stoch_size)
        state, _ = self.model.rssm.posterior(*memory, self.model.encoder(pixels), noise)
        action = self.behaviour.act(self.model, state, explore is not None, generator)
        if explore is not None:
            noise = randn(generator, *action.shape)
            if self.space.discrete:
                chance = torch.rand(len(action), 1, generator=generator, device=self.device)
                action = torch.where(chance < explore, one_hot_max(noise), action)
            else:
                action = (action + explore * noise).clamp(-1, 1)
        return action.float().cpu().numpy(), Memory(state, action)

    @torch.no_grad()
    def predict(
        self, image: np.ndarray, action: np.ndarray, context: int, generator: torch.Generator
    ) -> np.ndarray | None:
        """Open-loop prediction (Figure 5) of one episode's steps.

        From images uint8 [T, 64, 64, 3] and actions [T, A] in replay's alignment, the model sees
        the first `context` images and predicts the rest from the actions alone. Returns uint8
        [T, 64, 64, 3], reconstructions first; None if the agent has no decoder.
        """
        decoder = self.model.decoder
        if decoder is None:
            return None
        pixels = to_float(torch.from_numpy(image[None, :context]).to(self.device))
        actions = torch.from_numpy(action[None]).to(self.device)
        size = self.config.stoch_size
        noise = randn(generator, 1, context, size)
        _, seen = self.model.observe(pixels, actions[:, :context], noise)
        last = State(*(x[:, -1] for x in seen.states))
        rest = actions[:, context:].transpose(0, 1)  # [T - context, 1, A]
        imagined, _ = self.model.rssm.imagine(
            lambda _, step: rest[step], last, randn(generator, len(rest), 1, size)
        )
        features = torch.cat([seen.states.feature[0], imagined.feature[:, 0]])
        return to_uint8(decoder(features)).cpu().numpy()

    # Weights, for players in other processes and for checkpoints.

    def policy_weights(self, predicting: bool = False) -> list[Tensor]:
        """Copies, on the CPU, of the weights that `policy` reads; `predicting`: and `predict`."""
        parameters = self._policy_parameters(predicting)
        return [parameter.detach().to("cpu", copy=True) for parameter in parameters]

    @torch.no_grad()
    def load_policy_weights(self, weights: list[Tensor], predicting: bool = False) -> None:
        for parameter, weight in zip(self._policy_parameters(predicting), weights, strict=True):
            parameter.copy_(weight)

    def _policy_parameters(self, predicting: bool) -> list[nn.Parameter]:
        modules = [self.model.encoder, self.model.rssm, self.model.reward_head]
        if predicting and self.model.decoder is not None:
            modules.append(self.model.decoder)
        model = [parameter for module in modules for parameter in module.parameters()]
        return model + [p for group in self.card.acts_with for p in self.parameters[group]]

    def state_dict(self) -> dict[str, Any]:
        """All that learning has changed."""
        return {
            "model": self.model.state_dict(),
            "behaviour": self.behaviour.state_dict(),
            "optimisers": {name: o.state_dict() for name, o in self.optimisers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.behaviour.load_state_dict(state["behaviour"])
        for name, optimiser in self.optimisers.items():
            averages = state["optimisers"][name]["state"]
            groups = optimiser.state_dict()["param_groups"]  # as this device needs them
            optimiser.load_state_dict({"state": averages, "param_groups": groups})
        self._learn = self._learner()


def like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the parameter's memory layout: the fused Adam reads both as flat memory.
    (`backward` does that itself, `autograd.grad` does not.)"""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
