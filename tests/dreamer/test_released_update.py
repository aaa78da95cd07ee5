"""One whole update against the released code's own numbers (tests/data/released_update).

Weights, batch and noise are theirs; compared are everything on the way, the losses, every gradient
and every parameter's change, in double and single precision, on plain and on fast paths.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from helpers import ROOT
from torch import Tensor, nn

from dreamer.agent import Agent, UpdateNoise
from dreamer.behaviour import Dreamer, ImaginationNoise
from dreamer.config import Config, make_config
from dreamer.distributions import normal_kl
from dreamer.envs.simulators import ActionSpace
from dreamer.fast.fused import fused
from dreamer.networks import to_float
from dreamer.replay import Batch
from dreamer.returns import cumulative_weights, lambda_return
from dreamer.rssm import State
from dreamer.world_model import WorldModel

DATA = ROOT / "tests" / "data" / "released_update"
FILES = ["continuous", "discount_head", "one_hot"]
# Error relative to an array's largest value; of changes, in learning rates.
NEAR = {torch.float64: (1e-6, 1e-5), torch.float32: (2e-5, 5e-3)}
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)

Arrays = dict[str, np.ndarray]


@cache
def released(name: str) -> Arrays:
    with np.load(DATA / f"{name}.npz") as file:
        return dict(file)


def config_of(data: Arrays) -> Config:
    fields = Config.__dataclass_fields__
    values = {k.split("/")[1]: v.item() for k, v in data.items() if k.startswith("config/")}
    settings = {k: v for k, v in values.items() if k in fields}
    settings["discount_head"] = bool(values["discount_head"])
    # One update of torch's Adam is Keras' with this epsilon.
    settings["adam_epsilon"] = values["adam_epsilon"] / math.sqrt(1 - 0.999)
    transform = "tanh" if values["reward_tanh"] else "none"
    more = dict(task="toy_dot", reward_transform=transform, actor_gradient="exact")
    return make_config("published", {**settings, **more})


# Our parameters from theirs. What has an entry here is a function of the same array, whether it
# holds weights, gradients or changes: layers that are one there and two here, gates in another
# order, other layouts.


def dense_layers(part: str, ours: str, count: int) -> Iterator[tuple[str, str, Callable]]:
    names = [f"h{i}" for i in range(count)] + ["hout"]
    for i, name in enumerate(names):
        yield f"{ours}.{2 * i}.weight", f"{part}/{name}/kernel", lambda k: k.T
        yield f"{ours}.{2 * i}.bias", f"{part}/{name}/bias", lambda b: b


def gates(x: np.ndarray) -> np.ndarray:
    """From update, reset, new to torch's reset, update, new, along the last axis."""
    update, reset, new = np.split(x, 3, -1)
    return np.concatenate([reset, update, new], -1)


def layout(config: Config) -> dict[str, dict[str, tuple[str, Callable]]]:
    """Group -> name of our parameter -> (name of theirs, how ours follows from it)."""
    stoch, deter = config.stoch_size, config.deter_size
    model: list[tuple[str, str, Callable]] = [
        ("rssm.stoch_in.weight", "rssm/img1/kernel", lambda k: k[:stoch].T),
        ("rssm.action_in.weight", "rssm/img1/kernel", lambda k: k[stoch:].T),
        ("rssm.action_in.bias", "rssm/img1/bias", lambda b: b),
        ("rssm.deter_in.weight", "rssm/obs1/kernel", lambda k: k[:deter].T),
        ("rssm.embed_in.weight", "rssm/obs1/kernel", lambda k: k[deter:].T),
        ("rssm.embed_in.bias", "rssm/obs1/bias", lambda b: b),
        ("rssm.posterior_out.weight", "rssm/obs2/kernel", lambda k: k.T),
        ("rssm.posterior_out.bias", "rssm/obs2/bias", lambda b: b),
        ("rssm.prior_in.weight", "rssm/img2/kernel", lambda k: k.T),
        ("rssm.prior_in.bias", "rssm/img2/bias", lambda b: b),
        ("rssm.prior_out.weight", "rssm/img3/kernel", lambda k: k.T),
        ("rssm.prior_out.bias", "rssm/img3/bias", lambda b: b),
        ("rssm.gru.weight_ih", "rssm/gru/kernel", lambda k: gates(k).T),
        ("rssm.gru.weight_hh", "rssm/gru/recurrent_kernel", lambda k: gates(k).T),
        ("rssm.gru.bias_ih", "rssm/gru/bias", lambda b: gates(b)[0]),
        ("rssm.gru.bias_hh", "rssm/gru/bias", lambda b: gates(b)[1]),
        ("representation.decoder.inputs.weight", "decoder/h1/kernel", lambda k: k.T),
        ("representation.decoder.inputs.bias", "decoder/h1/bias", lambda b: b),
    ]
    decoder = "representation.decoder"
    for i in range(4):
        ours = f"encoder.layers.{i}", f"{decoder}.first" if i == 0 else f"{decoder}.layers.{i - 1}"
        for name, part in zip(ours, (f"encoder/h{i + 1}", f"decoder/h{i + 2}"), strict=True):
            # To [outputs, inputs, height, width], and transposed ones [inputs, outputs, ...].
            model.append((f"{name}.weight", f"{part}/kernel", lambda k: k.transpose(3, 2, 0, 1)))
            model.append((f"{name}.bias", f"{part}/bias", lambda b: b))
    model += dense_layers("reward", "reward_head", config.reward_layers)
    if config.discount_head:
        model += dense_layers("pcont", "discount_head", config.discount_layers)
    groups = {
        "model": model,
        "actor": list(dense_layers("actor", "actor.network", config.actor_layers)),
        "value": list(dense_layers("value", "value", config.value_layers)),
    }
    return {g: {ours: (theirs, f) for ours, theirs, f in rows} for g, rows in groups.items()}


def in_ours(data: Arrays, kind: str, config: Config) -> dict[str, dict[str, Tensor]]:
    """Group -> name of our parameter -> what the file's `kind` (weights, gradient, change) is."""
    return {
        group: {
            ours: torch.from_numpy(np.ascontiguousarray(f(data[f"{kind}/{theirs}"])))
            for ours, (theirs, f) in rows.items()
        }
        for group, rows in layout(config).items()
    }


class Case:
    """An agent with the released weights, and the released batch and noise."""

    def __init__(self, name: str, dtype: torch.dtype):
        data = self.data = released(name)
        config = self.config = config_of(data)
        space = ActionSpace(int(data["config/action_size"]), discrete=bool(data["config/discrete"]))
        self.agent = Agent(config, space)
        self.agent.model.to(dtype)
        self.agent.behaviour.to(dtype)
        self.dtype = dtype
        behaviour = self.agent.behaviour
        assert isinstance(behaviour, Dreamer)
        self.behaviour, self.model = behaviour, self.agent.model
        weights = in_ours(data, "weights", config)
        with torch.no_grad():
            for group, parameters in self.parameters().items():
                assert set(parameters) == set(weights[group])
                for key, parameter in parameters.items():
                    parameter.copy_(weights[group][key])
        reward, terminal = self("batch/reward"), self("batch/terminal")
        image = torch.from_numpy(data["batch/image"])
        self.batch = Batch(image, self("batch/action"), reward, terminal)
        imagination = ImaginationNoise(self("noise/state"), self("noise/action"))
        self.noise = UpdateNoise(self("noise/posterior"), imagination)

    def __call__(self, name: str) -> Tensor:
        return torch.from_numpy(self.data[name]).to(self.dtype)

    def parameters(self) -> dict[str, dict[str, nn.Parameter]]:
        learned = dict(self.behaviour.named_parameters())
        return {
            "model": dict(self.model.named_parameters()),
            "actor": {k: v for k, v in learned.items() if k.startswith("actor.")},
            "value": {k: v for k, v in learned.items() if k.startswith("value.")},
        }

    def near(self, actual: Tensor, name: str) -> None:
        self.equal(actual, torch.from_numpy(self.data[name]), name)

    def equal(self, actual: Tensor, expected: Tensor, name: str) -> None:
        assert actual.shape == expected.shape, name
        error = (actual.detach() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
        assert error <= NEAR[self.dtype][0], f"{name}: {error:.2g}"


@pytest.fixture(params=list(NEAR), ids=["float64", "float32"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(params=FILES)
def case(request, dtype) -> Case:
    return Case(request.param, dtype)


@pytest.mark.parametrize("learning", [True, False])
def test_states_are_the_released_ones(case, learning):
    """As updates compute them, with gradients, and as evaluations do, without."""
    image = to_float(case.batch.image, case.dtype)
    with torch.set_grad_enabled(learning):
        embed, seen = case.model.observe(image, case.batch.action, case.noise.posterior)
    case.near(embed, "out/embed")
    case.near(seen.posterior.mean, "out/posterior_mean")
    case.near(seen.posterior.std, "out/posterior_std")
    case.near(seen.prior.mean, "out/prior_mean")
    case.near(seen.prior.std, "out/prior_std")
    case.near(seen.states.stoch, "out/stoch")
    case.near(seen.states.deter, "out/deter")
    case.near(normal_kl(seen.posterior, seen.prior), "out/kl_each")


@torch.no_grad()
def test_acting_sees_the_released_states(case):
    """Step by step, with few images at a time."""
    count, length = case.batch.reward.shape
    state = case.model.rssm.initial(count)
    for t in range(length):
        embed = case.model.encoder(to_float(case.batch.image[:, t], case.dtype))
        case.equal(embed, torch.from_numpy(case.data["out/embed"][:, t]), f"embed {t}")
        action, noise = case.batch.action[:, t], case.noise.posterior[:, t]
        state, belief = case.model.rssm.posterior(state, action, embed, noise)
        for name in ("mean", "std"):
            expected = torch.from_numpy(case.data[f"out/posterior_{name}"][:, t])
            case.equal(getattr(belief, name), expected, f"{name} {t}")
        case.equal(state.deter, torch.from_numpy(case.data["out/deter"][:, t]), f"deter {t}")


def imagined_by(model: WorldModel, case: Case) -> tuple[Tensor, Tensor]:
    """Features [H, N, F] and rewards [H, N] of the released actions, as a planner computes them."""
    start = State(case("out/deter"), case("out/stoch"))
    now, features = case.agent.starts(start), []
    for action, noise in zip(case("out/imagined_action"), case("noise/state"), strict=True):
        now = model.rssm.prior(now, action, noise)
        features.append(now.feature)
    feature = torch.stack(features)
    return feature, torch.stack([model.reward(x) for x in feature])


@torch.no_grad()
def test_a_planners_states_and_rewards_are_the_released_ones(case):
    """Also by fused layers, which are in single precision."""
    twins = [fused(case.model, half=False)] if case.dtype == torch.float32 else []
    for model in [case.model, *twins]:
        feature, reward = imagined_by(model, case)
        case.near(feature, "out/imagined_feature")
        case.near(reward[:-1], "out/imagined_reward")


def test_imagination_is_the_released_one(case):
    start = case.agent.starts(State(case("out/deter"), case("out/stoch")))
    imagined = case.behaviour.imagine(case.model, start, case.noise.imagination)
    case.near(imagined.feature, "out/imagined_feature")
    case.near(imagined.reward[:-1], "out/imagined_reward")
    case.near(imagined.discount[:-1], "out/imagined_discount")
    value = case.behaviour.value(imagined.feature).squeeze(-1)
    case.near(value, "out/imagined_value")
    reward, discount = imagined.reward[:-1], imagined.discount[:-1]
    returns = lambda_return(reward, value[1:], discount, case.config.return_lambda)
    case.near(returns, "out/lambda_return")
    case.near(cumulative_weights(discount), "out/weight")


def test_losses_are_the_released_ones(case):
    losses, watched = case.agent.losses(case.batch, case.noise)
    case.near(watched["kl"], "out/kl")
    case.near(watched["kl_loss"] / case.config.kl_scale, "out/kl_clipped")
    case.near(watched["image_loss"], "out/image_loss_without_constant")
    case.near(watched["image_loss"] + 64 * 64 * 3 * HALF_LOG_TWO_PI, "out/image_loss")
    case.near(watched["reward_loss"], "out/reward_loss_without_constant")
    if case.config.discount_head:
        case.near(watched["discount_loss"], "out/discount_loss")
    case.near(losses["model"], "out/model_loss_without_constant")
    case.near(losses["actor"], "out/actor_loss")
    case.near(losses["value"], "out/value_loss_without_constant")
    weight = torch.from_numpy(case.data["out/weight"])
    case.near(losses["value"] + HALF_LOG_TWO_PI * weight.mean(), "out/value_loss")


def test_every_gradient_is_the_released_one(case):
    losses, _ = case.agent.losses(case.batch, case.noise)
    expected = in_ours(case.data, "gradient", case.config)
    for group, parameters in case.parameters().items():
        found = torch.autograd.grad(losses[group], list(parameters.values()), retain_graph=True)
        for key, gradient in zip(parameters, found, strict=True):
            case.equal(gradient, expected[group][key], key)


def test_every_parameters_change_is_the_released_one(case):
    """One update: clipped by the group's norm, then Adam."""
    before = {
        group: {key: p.detach().clone() for key, p in parameters.items()}
        for group, parameters in case.parameters().items()
    }
    watched = case.agent.learn(case.batch, case.noise)
    expected = in_ours(case.data, "change", case.config)
    for group, parameters in case.parameters().items():
        case.near(watched[f"{group}_gradient_norm"], f"out/{group}_gradient_norm")
        rate = getattr(case.config, f"{group}_learning_rate")
        for key, parameter in parameters.items():
            change = (parameter.detach() - before[group][key]) / rate
            error = (change - expected[group][key] / rate).abs().max()
            assert error <= NEAR[case.dtype][1], f"{key}: {error:.2g} learning rates"
