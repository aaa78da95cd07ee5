"""Every rearrangement that makes an update fast, against the update as the paper writes it."""

import plain_update
import pytest
import torch
from torch import Tensor, nn

import dreamer.rssm
from dreamer.agent import Agent
from dreamer.config import Config, make_config
from dreamer.envs.simulators import ActionSpace
from dreamer.fast import products
from dreamer.fast.convolutions import Convolution
from dreamer.fast.fused import Kernels, available, fused, fused_layer
from dreamer.networks import ACTIVATIONS, Layer
from dreamer.replay import Batch
from dreamer.rssm import RSSM, State
from dreamer.views import frozen

SPACE = ActionSpace(2, discrete=False)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tiny(**overrides) -> Config:
    sizes = {"batch_size": 3, "length": 5, "horizon": 4, "conv_depth": 4, "free_nats": 0.0}
    return make_config("tiny", {**sizes, **overrides})


def random_batch(config: Config, dtype: torch.dtype = torch.float32) -> Batch:
    b, n = config.batch_size, config.length
    return Batch(
        torch.randint(0, 256, (b, n, 64, 64, 3), dtype=torch.uint8),
        (torch.rand(b, n, SPACE.size) * 2 - 1).to(dtype),
        torch.rand(b, n).to(dtype),
        torch.zeros(b, n, dtype=dtype),
    )


def gradients(agent: Agent, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of every parameter, named, each of its own group's loss."""
    names = {id(p): n for m in (agent.model, agent.behaviour) for n, p in m.named_parameters()}
    found = {}
    for group, parameters in agent.parameters.items():
        of_group = torch.autograd.grad(losses[group], parameters, retain_graph=True)
        found |= {names[id(p)]: g for p, g in zip(parameters, of_group, strict=True)}
    return found


def doubled(noise):
    """Noise (tuples of tensors) in double precision."""
    return noise.double() if isinstance(noise, Tensor) else type(noise)(*map(doubled, noise))


def distances(ours: dict[str, Tensor], plain: dict[str, Tensor]) -> dict[str, float]:
    """||ours - plain|| / ||plain|| of each name."""
    assert ours.keys() == plain.keys()
    return {k: ((ours[k] - plain[k]).norm() / plain[k].norm()).item() for k in plain}


def test_every_parameters_gradient_is_the_plain_updates():
    """In double precision: hoisted products, one product per weight after the scan, linear first
    and sub-pixel last deconvolution, the frozen model, one value forward for two losses."""
    config = tiny()
    agent = Agent(config, SPACE)
    agent.model.double()
    agent.behaviour.double()
    batch, noise = random_batch(config, torch.float64), doubled(agent.draw_noise(0))
    fast, _ = agent.losses(batch, noise)
    plain = plain_update.losses(agent, batch, noise)
    for name, loss in plain.items():
        torch.testing.assert_close(fast[name], loss, rtol=1e-12, atol=0)
    far = distances(gradients(agent, fast), gradients(agent, plain))
    assert len(far) == len(list(agent.model.parameters())) + len(list(agent.behaviour.parameters()))
    assert max(far.values()) < 1e-9, far


def test_one_update_is_the_plain_one():
    """In single precision, the parameters after it; Adam's step is as large for the smallest
    gradient as for the largest, so what counts is the distance of whole parameters."""
    config = tiny(adam_epsilon=1e-4)
    fast, plain = Agent(config, SPACE), Agent(config, SPACE)
    batch, noise = random_batch(config), fast.draw_noise(0)
    fast.update(batch, 0)
    losses = plain_update.losses(plain, batch, noise)
    for group, parameters in plain.parameters.items():
        for p, gradient in zip(
            parameters,
            torch.autograd.grad(losses[group], parameters, retain_graph=True),
            strict=True,
        ):
            p.grad = gradient.contiguous()
    rates = {"model": config.model_learning_rate, "value": config.value_learning_rate}
    for group, parameters in plain.parameters.items():
        torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip_norm)
        rate = rates.get(group, config.actor_learning_rate)
        torch.optim.Adam(parameters, lr=rate, eps=config.adam_epsilon, foreach=False).step()
    for group in fast.parameters:
        for a, b in zip(fast.parameters[group], plain.parameters[group], strict=True):
            assert (a - b).norm() <= 1e-5 * max(1.0, b.norm().item()), group


@pytest.mark.parametrize("start", [False, True])
def test_the_scans_gradients_are_autograds(start, monkeypatch):
    """Of weights and of inputs, in double precision; also a second time from the same graph."""
    config = tiny()
    rssm = RSSM(config, SPACE.size).double()
    b, n, s = config.batch_size, config.length, config.stoch_size

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    embed, action, noise = random(b, n, config.embed_size), random(b, n, 2), random(b, n, s)
    first = State(random(b, config.deter_size), random(b, s)) if start else None
    inputs = [*rssm.parameters(), embed, action, *(first or ())]
    weights = [random(b, n, size).detach() for size in (config.feature_size, s, s, s, s)]

    def loss() -> Tensor:
        seen = rssm.observe(embed, action, noise, first)
        parts = (seen.states.feature, *seen.posterior, *seen.prior)
        return sum((w * x).sum() for w, x in zip(weights, parts, strict=True))

    fast = loss()
    fast_gradients = torch.autograd.grad(fast, inputs, retain_graph=True)
    again = torch.autograd.grad(fast, inputs)
    monkeypatch.setattr(dreamer.rssm, "one_gradient", lambda module: module)
    plain = torch.autograd.grad(loss(), inputs)
    for a, b, c in zip(fast_gradients, again, plain, strict=True):
        assert torch.equal(a, b)
        assert (a - c).norm() <= 1e-12 * c.norm()


def test_half_precision_is_near_single():
    """Losses and gradients of one batch; what must stay in single precision does."""
    config = tiny(precision="bf16", free_nats=0.0)
    batch = random_batch(config)
    half, single = Agent(config, SPACE), Agent(tiny(), SPACE)
    noise = half.draw_noise(0)
    with torch.autocast("cpu", torch.bfloat16):
        losses, watched = half.losses(batch, noise)
        states = half.model.losses(batch, noise.posterior).states
    plain, plain_watched = single.losses(batch, noise)
    assert {x.dtype for x in (*watched.values(), *states)} == {torch.float32}
    for name, value in plain_watched.items():
        assert value.item() == pytest.approx(watched[name].item(), rel=0.03, abs=0.02), name
    far = distances(gradients(half, losses), gradients(single, plain))
    assert 1e-5 < max(far.values()) < 0.15, far
    assert sum(far.values()) / len(far) < 0.05, far


def test_precision_bf16_changes_an_update_a_little():
    watched = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(1)
        config = tiny(precision=precision, representation="contrastive")
        watched.append(Agent(config, SPACE).update(random_batch(config), 0))
    assert watched[0]["contrastive_loss"] != watched[1]["contrastive_loss"]
    for name, value in watched[0].items():
        assert value.item() == pytest.approx(watched[1][name].item(), rel=0.1, abs=0.05), name


def test_precision_bf16_changes_a_plan_a_little():
    """Of eight states: a plan stays the same where the order of its candidates does."""
    actions = []
    for precision in ("fp32", "bf16"):
        config = tiny(precision=precision, behaviour="planet")
        agent = Agent(config, SPACE)
        torch.manual_seed(1)
        state = State(torch.randn(8, config.deter_size), torch.randn(8, config.stoch_size))
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            actions.append(agent.behaviour.act(agent.model, state, False, generator))
    assert not torch.equal(*actions)
    torch.testing.assert_close(*actions, atol=0.3, rtol=0)


# Planning: fused layers.


needs_fused_layers = pytest.mark.skipif(
    not available(torch.device("cpu")), reason="this torch has no fused layers"
)


def plain_kernels(x, weight, bias=None, plus=None, then=""):
    y = nn.functional.linear(x, weight, bias)
    return ACTIVATIONS[then](y if plus is None else y + plus)


@needs_fused_layers
@pytest.mark.parametrize(("half", "near"), [(False, 1e-6), (True, 0.02)])
def test_fused_layers_are_plain_ones(half, near):
    x, plus = torch.randn(20, 7), torch.randn(20, 5)
    weight, bias = torch.randn(5, 7, requires_grad=True), torch.randn(5, requires_grad=True)
    layers = {
        "product": lambda p: p(x, weight, bias),
        "no bias": lambda p: p(x, weight),
        "elu": lambda p: p(x, weight, bias, then="elu"),
        "plus": lambda p: p(x, weight, plus=plus, then="elu"),
        "all": lambda p: p(x, weight, bias, plus, "elu"),
        "one row": lambda p: p(x[:1], weight, bias, plus, "elu"),
        "one row of plus": lambda p: p(x, weight, bias, plus[:1], "sigmoid"),
        "sigmoid": lambda p: p(x, weight, bias, then="sigmoid"),
        "tanh": lambda p: p(x, weight, bias, plus, "tanh"),
    }
    for _ in range(2):
        kernels = Kernels(half)  # for these weights; what they compile is older
        with torch.no_grad():
            for name, layer in layers.items():
                first, again = layer(kernels), layer(kernels)
                assert torch.equal(first, again), name
                assert torch.allclose(first.float(), layer(plain_kernels), atol=near, rtol=near), (
                    name
                )
            weight.add_(1)


@needs_fused_layers
def test_fused_layers_are_fused():
    """Else nothing but warnings would be gained."""
    x, weight, bias = torch.randn(64, 7), torch.randn(5, 7), torch.randn(5)
    kernel = fused_layer("elu", torch.float32, (x.shape, weight.shape, bias.shape, None))
    assert "oneDNNFusionGroup" in str(kernel.graph_for(x, weight, bias))


@needs_fused_layers
@pytest.mark.parametrize("environments", [1, 2])
@pytest.mark.parametrize(("half", "near"), [(False, 1e-5), (True, 0.05)])
def test_a_plans_rewards_are_those_of_plain_layers(environments, half, near):
    config = tiny(behaviour="planet", planner_candidates=50, planner_horizon=3)
    agent, n = Agent(config, SPACE), environments
    for parameter in agent.model.parameters():
        if parameter.dim() == 1:  # biases begin as zero, anywhere the same
            nn.init.normal_(parameter, std=0.2)
    state = State(torch.randn(n, config.deter_size), torch.randn(n, config.stoch_size))
    actions = torch.rand(n, 50, 3, SPACE.size) * 2 - 1
    rewards = []
    with torch.no_grad():
        for model in (fused(agent.model, half), agent.model):
            generator = torch.Generator().manual_seed(0)
            rewards.append(agent.behaviour._imagined_reward(model, state, actions, generator))
    torch.testing.assert_close(*rewards, atol=near, rtol=near)


# Products and convolutions of a CPU.


@pytest.mark.parametrize("rows", [(1,), (160,), (8, 20), (0,)])
def test_a_product_by_onednn_is_linear(rows: tuple[int, ...]) -> None:
    x, weight, bias = torch.randn(*rows, 90), torch.randn(110, 90), torch.randn(110)
    gradient = torch.randn(*rows, 110)
    found = []
    for layer, dtype in ((products.linear, torch.float32), (nn.functional.linear, torch.float64)):
        inputs = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
        y = layer(*inputs)
        found.append((y, *torch.autograd.grad(y, inputs, gradient.to(dtype))))
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain.float(), rtol=1e-4, atol=1e-4)


def test_products_by_onednn_are_in_use_where_they_pay() -> None:
    assert products.AVAILABLE
    x, weight = torch.randn(160, 128, requires_grad=True), torch.randn(128, 128)
    y = products.linear(x, weight)
    assert "_Linear" in type(y.grad_fn).__name__ and not y._is_view()
    few = products.linear(x[:8], weight)
    assert "_Linear" not in type(few.grad_fn).__name__


def test_frozen_weights_get_no_gradient_and_inputs_do() -> None:
    module = nn.Sequential(Layer(120, 110, "elu"), Layer(110, 3))
    x = torch.randn(160, 120, requires_grad=True)
    view = frozen(module)
    y = view(x)
    assert torch.equal(y, module(x))
    (seen,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert torch.equal(seen, torch.autograd.grad(module(x).sum(), x)[0])
    weights = list(module.parameters())
    assert not any(torch.autograd.grad(y.sum(), weights, allow_unused=True))
    with torch.no_grad():
        weights[0].add_(1)  # a view sees what becomes of the weights
    assert torch.equal(view(x), module(x)) and all(w.requires_grad for w in module.parameters())


@pytest.mark.parametrize("size", [6, 8, 14, 31])  # whole windows, and pixels beyond the last one
def test_a_convolutions_input_gradient_at_the_lower_resolution(size: int) -> None:
    layer = Convolution(5, 7, kernel_size=4, stride=2).double()
    x = torch.randn(3, 5, size, size, dtype=torch.float64).to(memory_format=torch.channels_last)
    x.requires_grad_()
    y, plain = layer(x), nn.functional.conv2d(x, layer.weight, layer.bias, stride=2)
    assert torch.equal(y, plain) and "SubPixel" in type(y.grad_fn).__name__
    gradient = torch.randn_like(y)
    inputs = [x, layer.weight, layer.bias]
    for ours, torchs in zip(
        torch.autograd.grad(y, inputs, gradient),
        torch.autograd.grad(plain, inputs, gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, torchs)
