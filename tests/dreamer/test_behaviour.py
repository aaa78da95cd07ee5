"""Behaviours: gradients against finite differences, and which loss changes which parameter."""

import copy

import numpy as np
import pytest
import torch

from dreamer.agent import Agent
from dreamer.behaviour import Dreamer, NoValue
from dreamer.config import Config, make_config
from dreamer.envs.simulators import ActionSpace
from dreamer.envs.toys import SPEED, ToyDot
from dreamer.errors import ConfigError
from dreamer.planner import Planet, cross_entropy_method
from dreamer.replay import Batch
from dreamer.returns import cumulative_weights, lambda_return, reward_sum
from dreamer.rssm import State
from dreamer.world_model import WorldModel

A = 2
SPACE = ActionSpace(A, discrete=False)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tiny(**overrides) -> Config:
    small = {"batch_size": 3, "length": 5, "horizon": 5, "planner_elites": 3}
    # Below the free nats the prior has no gradient; without them every parameter has one.
    return make_config("tiny", {**small, "free_nats": 0.0, **overrides})


def random_batch(config: Config, size: int = A) -> Batch:
    b, n = config.batch_size, config.length
    return Batch(
        torch.randint(0, 256, (b, n, 64, 64, 3), dtype=torch.uint8),
        torch.rand(b, n, size) * 2 - 1,
        torch.rand(b, n),
        torch.zeros(b, n),
    )


def random_states(config: Config, count: int) -> State:
    return State(
        torch.randn(count, config.deter_size).double(),
        torch.randn(count, config.stoch_size).double(),
    )


def plain_actor_loss(behaviour, model, start, noise, seen) -> torch.Tensor:
    """The actor's loss as the paper writes it, step by step; the policy sees the features `seen`,
    which stand for stop-gradient(s_t)."""
    config, state, rewards, values = behaviour.config, start, [], []
    for t in range(config.horizon):
        action = behaviour.actor(seen[t]).sample(noise.action[t])
        state = model.rssm.prior(state, action, noise.stoch[t])
        rewards.append(model.reward(state.feature))
        if isinstance(behaviour, Dreamer):
            values.append(behaviour.value(state.feature).squeeze(-1))
    reward = torch.stack(rewards)
    if isinstance(behaviour, NoValue):
        discount = torch.full_like(reward, config.no_value_discount)
        return -(cumulative_weights(discount) * reward_sum(reward, discount)).mean()
    value, discount = torch.stack(values), torch.full_like(reward, config.discount)[:-1]
    returns = lambda_return(reward[:-1], value[1:], discount, config.return_lambda)
    return -(cumulative_weights(discount) * returns).mean()


@pytest.mark.parametrize("behaviour_type", [Dreamer, NoValue])
def test_actor_gradient_equals_finite_differences(behaviour_type):
    config = tiny(actor_gradient="exact")
    model, behaviour = WorldModel(config, A).double(), behaviour_type(config, SPACE).double()
    start = random_states(config, 4)
    generator = torch.Generator().manual_seed(1)
    noise = behaviour.draw_noise(4, generator)
    noise = type(noise)(*(x.double() for x in noise))
    losses, _ = behaviour.losses(model, start, noise)
    parameters = behaviour.parameter_groups()["actor"]
    gradient = torch.autograd.grad(losses["actor"], parameters)

    with torch.no_grad():
        state, seen = start, []
        for t in range(config.horizon):
            seen.append(state.feature)
            action = behaviour.actor(seen[-1]).sample(noise.action[t])
            state = model.rssm.prior(state, action, noise.stoch[t])
        base = plain_actor_loss(behaviour, model, start, noise, seen)
        torch.testing.assert_close(losses["actor"].detach(), base)
        for _ in range(5):
            direction = [torch.randn_like(p) for p in parameters]
            values = []
            for sign in (2e-6, -4e-6):  # to one side, then to the other
                for p, d in zip(parameters, direction, strict=True):
                    p += sign * d
                values.append(plain_actor_loss(behaviour, model, start, noise, seen))
            for p, d in zip(parameters, direction, strict=True):
                p += 2e-6 * d
            expected = (values[0] - values[1]) / 4e-6
            slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
            torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-9)


def test_a_saturated_actor_is_pushed_no_further_unless_gradients_are_exact():
    for rule, moves in (("half", False), ("exact", True)):
        config = tiny(actor_gradient=rule)
        model, behaviour = WorldModel(config, A), Dreamer(config, SPACE)
        last = behaviour.actor.network[-1]
        torch.nn.init.zeros_(last.weight)
        last.bias.data = torch.tensor([9.0, -9.0, -9.0, -9.0])  # means near 5 and -5, little std
        start = State(*(x.float() for x in random_states(config, 4)))
        noise = behaviour.draw_noise(4, torch.Generator().manual_seed(1))
        losses, _ = behaviour.losses(model, start, noise)
        losses["actor"].backward()
        assert bool(last.bias.grad.any()) == moves


def test_value_loss_regresses_on_returns_that_have_no_gradient():
    config = tiny()
    model, behaviour = WorldModel(config, A).double(), Dreamer(config, SPACE).double()
    start = random_states(config, 4)
    noise = behaviour.draw_noise(4, torch.Generator().manual_seed(1))
    noise = type(noise)(*(x.double() for x in noise))
    losses, _ = behaviour.losses(model, start, noise)
    parameters = behaviour.parameter_groups()["value"]
    gradient = torch.autograd.grad(losses["value"], parameters)

    imagined = behaviour.imagine(model, start, noise)
    feature, reward = imagined.feature.detach(), imagined.reward.detach()
    value = behaviour.value(feature).squeeze(-1)
    discount = imagined.discount[:-1].detach()
    target = lambda_return(reward[:-1], value[1:].detach(), discount, config.return_lambda)
    error = value[:-1] - target
    expected = (cumulative_weights(discount) * 0.5 * error**2).mean()
    torch.testing.assert_close(losses["value"], expected)
    for a, b in zip(gradient, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(a, b)


GROUPS = {
    ("dreamer", "reconstruction"): {"model", "actor", "value"},
    ("dreamer", "contrastive"): {"model", "probe", "actor", "value"},
    ("dreamer", "reward"): {"model", "probe", "actor", "value"},
    ("no_value", "reconstruction"): {"model", "actor"},
    ("no_value", "contrastive"): {"model", "probe", "actor"},
    ("no_value", "reward"): {"model", "probe", "actor"},
    ("planet", "reconstruction"): {"model"},
    ("planet", "contrastive"): {"model", "probe"},
    ("planet", "reward"): {"model", "probe"},
}


@pytest.mark.parametrize(("behaviour", "representation"), GROUPS)
def test_every_pair_has_just_its_parts_and_each_update_moves_them(behaviour, representation):
    config = tiny(behaviour=behaviour, representation=representation)
    agent = Agent(config, SPACE)
    assert set(agent.parameters) == GROUPS[behaviour, representation]
    before = {n: [p.clone() for p in group] for n, group in agent.parameters.items()}
    agent.update(random_batch(config), 0)
    for name, group in agent.parameters.items():
        moved = [not torch.equal(a, b) for a, b in zip(before[name], group, strict=True)]
        assert all(moved), name


def test_update_is_plain_adam_on_each_groups_own_gradient():
    """Against `backward`, clipping by hand and the unfused Adam, over three updates."""
    config = tiny(representation="contrastive", gradient_clip_norm=1.0)
    fast, plain = Agent(config, SPACE), Agent(config, SPACE)
    rates = {"model": 1e-3, "probe": 1e-3, "actor": 5e-4, "value": 5e-4}
    optimisers = {
        name: torch.optim.Adam(group, lr=rates[name], eps=config.adam_epsilon, foreach=False)
        for name, group in plain.parameters.items()
    }
    everything = [p for group in plain.parameters.values() for p in group]
    for update in range(3):
        batch = random_batch(config)
        fast.update(batch, update)
        losses, _ = plain.losses(batch, plain.draw_noise(update))
        gradients = {}
        for name, loss in losses.items():
            for p in everything:
                p.grad = None
            loss.backward(retain_graph=True)
            gradients[name] = [p.grad.clone() for p in plain.parameters[name]]
        for name, group in plain.parameters.items():
            norm = torch.stack([g.square().sum() for g in gradients[name]]).sum().sqrt()
            for p, g in zip(group, gradients[name], strict=True):
                p.grad = g * min(1.0, 1.0 / norm.item())
            optimisers[name].step()
        for name in rates:
            for a, b in zip(fast.parameters[name], plain.parameters[name], strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0.05 * rates[name])


@pytest.mark.parametrize("name", ["model", "probe", "actor", "value"])
def test_an_optimiser_moves_its_own_parameters_and_no_others(name):
    config = tiny(representation="contrastive")
    agent = Agent(config, SPACE)
    agent.optimisers = {name: agent.optimisers[name]}
    before = copy.deepcopy(agent.state_dict())
    agent.update(random_batch(config), 0)
    own = {id(p) for p in agent.parameters[name]}
    for part, module in (("model", agent.model), ("behaviour", agent.behaviour)):
        for key, parameter in module.named_parameters():
            same = torch.equal(before[part][key], parameter)
            assert same == (id(parameter) not in own), key


@pytest.mark.parametrize("name", ["model", "probe", "actor", "value"])
def test_a_loss_moves_only_its_own_group(name):
    """The other losses are scaled by a million: the group's update stays the same, bitwise."""
    config = tiny(representation="contrastive")
    results = []
    for scale in (1, 1_000_000):
        agent = Agent(config, SPACE)
        losses = agent.losses

        def scaled(batch, noise, losses=losses, scale=scale):
            parts, watched = losses(batch, noise)
            return {k: v if k == name else scale * v for k, v in parts.items()}, watched

        agent.losses = scaled
        agent.update(random_batch_of(config), 0)
        results.append(agent.parameters[name])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def random_batch_of(config: Config) -> Batch:
    torch.manual_seed(5)
    return random_batch(config)


def test_the_slow_value_is_copied_every_so_many_updates():
    config = tiny(value_target="slow", slow_value_every_updates=3)
    agent = Agent(config, SPACE)
    batch = random_batch(config)

    def same() -> bool:
        pairs = zip(
            agent.behaviour.value.parameters(), agent.behaviour.slow_value.parameters(), strict=True
        )
        return all(torch.equal(a, b) for a, b in pairs)

    seen = []
    for update in range(6):
        agent.update(batch, update)
        seen.append(same())
    assert seen == [False, False, True, False, False, True]


def test_imagination_starts_leave_out_the_last_step_where_episodes_can_end():
    states = State(torch.arange(24.0).reshape(2, 3, 4), torch.zeros(2, 3, 5))
    whole = Agent(tiny(), SPACE).starts(states)
    assert whole.deter.shape == (6, 4)
    cut = Agent(tiny(discount_head=True), SPACE).starts(states)
    torch.testing.assert_close(cut.deter, states.deter[:, :2].reshape(4, 4))


def test_every_state_has_noise_of_its_own():
    """The released code draws one vector of latent noise for a whole batch."""
    posterior, imagination = Agent(tiny(), SPACE).draw_noise(0)
    for noise in (posterior, imagination.stoch, imagination.action):
        vectors = noise.flatten(0, 1)
        assert len(vectors.unique(dim=0)) == len(vectors)


# Planning.


def test_cross_entropy_method_finds_the_optimum_of_a_quadratic():
    target = torch.tensor([[[0.3, -0.7], [0.9, 0.0]], [[-0.2, 0.1], [2.0, -2.0]]])

    def objective(actions):
        return -(actions - target[:, None]).square().sum((-2, -1))

    plan = cross_entropy_method(
        objective,
        torch.zeros(2, 2, 2),
        candidates=1000,
        elites=100,
        iterations=10,
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(plan, target.clamp(-1, 1), atol=0.02, rtol=0)


def test_cross_entropy_method_finds_the_optimum_of_the_toys_true_dynamics():
    """`ToyDot` written as tensors; what the plans earn is asked of the toy itself."""
    steps, toys = 8, [ToyDot(), ToyDot()]
    for seed, toy in enumerate(toys):
        toy.reset(seed)
    start, target = (
        torch.tensor(np.array([getattr(toy, name) for toy in toys]), dtype=torch.float32)
        for name in ("_position", "_target")
    )

    def objective(actions):
        position, total = start[:, None], torch.zeros(actions.shape[:2])
        for step in actions.unbind(2):
            position = (position + SPEED * step).clamp(0, 1)
            distance = (target[:, None] - position).norm(dim=-1)
            total = total + (1 + torch.cos(torch.pi * distance / 2**0.5)) / 2
        return total

    plan = cross_entropy_method(
        objective,
        torch.zeros(2, steps, 2),
        candidates=1000,
        elites=100,
        iterations=10,
        generator=torch.Generator().manual_seed(0),
    )
    for seed, toy in enumerate(toys):
        planned = sum(toy.advance(action).reward for action in plan[seed].numpy())
        toy.reset(seed)
        best = sum(toy.advance(toy.optimal_action()).reward for _ in range(steps))
        toy.reset(seed)
        still = sum(toy.advance(np.zeros(2, np.float32)).reward for _ in range(steps))
        assert best - planned < 0.02 * (best - still), (best, planned, still)


def test_planning_several_environments_at_once_scores_each_from_its_own_state():
    config = tiny(behaviour="planet", planner_candidates=6, planner_horizon=3)
    model, planet = WorldModel(config, A), Planet(config, SPACE)
    state = State(torch.randn(2, config.deter_size), torch.randn(2, config.stoch_size))
    actions = torch.rand(2, 6, 3, A) * 2 - 1
    score = planet._imagined_reward(model, state, actions, torch.Generator().manual_seed(0))
    noise = torch.randn(3, 12, config.stoch_size, generator=torch.Generator().manual_seed(0))
    for env in range(2):
        for candidate in range(6):
            row = env * 6 + candidate
            one, total = State(*(x[env] for x in state)), 0.0
            for t in range(3):
                one = model.rssm.prior(one, actions[env, candidate, t], noise[t, row])
                total = total + model.reward(one.feature)
            torch.testing.assert_close(score[env, candidate], total, atol=1e-5, rtol=1e-5)


def test_planet_refuses_discrete_actions():
    with pytest.raises(ConfigError, match="planet plans continuous actions"):
        Agent(tiny(behaviour="planet"), ActionSpace(3, discrete=True))


# Acting.


@pytest.mark.parametrize("behaviour", ["dreamer", "no_value", "planet"])
def test_policy_is_batched_and_repeatable(behaviour):
    config = tiny(behaviour=behaviour, planner_candidates=20)
    agent = Agent(config, SPACE)
    image = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    runs = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        memory = agent.initial_memory(3)
        action, memory = agent.policy(image, memory, generator, explore=0.3)
        action, memory = agent.policy(image, memory, generator, explore=None)
        runs.append(action)
    assert runs[0].shape == (3, A) and runs[0].dtype == np.float32
    assert np.abs(runs[0]).max() <= 1
    np.testing.assert_array_equal(*runs)


def test_exploration_adds_normal_noise_to_the_configured_action():
    config = tiny(exploration_action="mode")
    agent = Agent(config, SPACE)
    with torch.no_grad():  # a policy that always wants 0.1, with hardly any spread
        agent.behaviour.actor.network[-1].weight.zero_()
        agent.behaviour.actor.network[-1].bias.copy_(torch.tensor([0.1, 0.1, -20.0, -20.0]))
    image = np.zeros((2000, 64, 64, 3), np.uint8)
    generator = torch.Generator().manual_seed(0)
    action, _ = agent.policy(image, agent.initial_memory(2000), generator, explore=0.3)
    inside = action[np.abs(action) < 1]
    assert abs(inside.mean() - 0.1) < 0.02 and abs(inside.std() - 0.3) < 0.02
    assert (np.abs(action) == 1).any()  # clipped


def test_discrete_exploration_is_epsilon_greedy():
    space = ActionSpace(4, discrete=True)
    agent = Agent(tiny(), space)
    with torch.no_grad():
        agent.behaviour.actor.network[-1].weight.zero_()
        agent.behaviour.actor.network[-1].bias.copy_(torch.tensor([30.0, 0.0, 0.0, 0.0]))
    image = np.zeros((4000, 64, 64, 3), np.uint8)
    generator = torch.Generator().manual_seed(0)
    action, _ = agent.policy(image, agent.initial_memory(4000), generator, explore=0.4)
    assert (action.sum(1) == 1).all() and ((action == 0) | (action == 1)).all()
    np.testing.assert_allclose(action.mean(0), [0.7, 0.1, 0.1, 0.1], atol=0.03)
