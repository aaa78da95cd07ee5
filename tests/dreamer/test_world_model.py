"""Networks, RSSM and world-model losses against plain computations."""

import math

import pytest
import torch
from torch import distributions as td
from torch import nn

from dreamer.config import Config, make_config
from dreamer.distributions import Normal
from dreamer.networks import (
    Actor,
    Decoder,
    Encoder,
    Layer,
    SubPixelTranspose,
    to_float,
    to_uint8,
)
from dreamer.replay import Batch
from dreamer.rssm import RSSM, State
from dreamer.world_model import WorldModel, image_loss, information_bound

A = 3


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tiny(**overrides) -> Config:
    return make_config("tiny", {"batch_size": 3, "length": 6, **overrides})


def random_batch(config: Config) -> Batch:
    b, n = config.batch_size, config.length
    return Batch(
        torch.randint(0, 256, (b, n, 64, 64, 3), dtype=torch.uint8),
        torch.rand(b, n, A) * 2 - 1,
        torch.rand(b, n),
        torch.zeros(b, n),
    )


# Networks.


def test_images_survive_the_way_to_floats_and_back():
    image = torch.arange(256, dtype=torch.uint8)
    seen = to_float(image)
    assert seen.min() == -0.5 and seen.max() == 0.5
    torch.testing.assert_close(to_uint8(seen), image, rtol=0, atol=0)


@pytest.mark.parametrize(("depth", "embed"), [(32, 1024), (4, 128)])
def test_encoder_and_decoder_have_the_papers_sizes(depth, embed):
    encoder, decoder = Encoder(depth), Decoder(230, depth)
    assert encoder(torch.rand(2, 3, 64, 64, 3)).shape == (2, 3, embed)
    assert decoder(torch.rand(2, 3, 230)).shape == (2, 3, 64, 64, 3)


@pytest.mark.parametrize("learning", [True, False])
@pytest.mark.parametrize("count", [1, Encoder.FEW, Encoder.FEW + 1])
def test_encoder_equals_plain_convolutions(count, learning):
    encoder, image = Encoder(4).double(), torch.rand(count, 64, 64, 3, dtype=torch.float64)
    x = image.permute(0, 3, 1, 2).contiguous()
    for layer in encoder.layers:
        x = torch.relu(layer(x))
    # Our embedding lists channels last; any fixed order serves a dense layer.
    with torch.set_grad_enabled(learning):
        torch.testing.assert_close(encoder(image), x.permute(0, 2, 3, 1).flatten(1))


def test_decoder_equals_plain_transposed_convolutions():
    decoder, feature = Decoder(11, 4).double(), torch.rand(2, 11, dtype=torch.float64)
    x = decoder.inputs(feature)[:, :, None, None]
    x = decoder.first(x)
    for layer in decoder.layers:
        x = nn.ConvTranspose2d.forward(layer, torch.relu(x))
    torch.testing.assert_close(decoder(feature), x.permute(0, 2, 3, 1))


@pytest.mark.parametrize("size", [2, 4, 6])
def test_sub_pixel_transpose_equals_the_transposed_convolution(size):
    layer = SubPixelTranspose(5, 3, kernel_size=size, stride=2).double()
    x = torch.rand(2, 5, 7, 9, dtype=torch.float64, requires_grad=True)
    plain, fast = nn.ConvTranspose2d.forward(layer, x), layer(x)
    torch.testing.assert_close(fast, plain)
    weight = torch.randn_like(plain)
    inputs = [x, *layer.parameters()]
    for a, b in zip(
        torch.autograd.grad((plain * weight).sum(), inputs),
        torch.autograd.grad((fast * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_initialisation_is_that_of_keras():
    layer = Layer(300, 500)
    limit = math.sqrt(6 / 800)
    assert layer.weight.abs().max() <= limit
    assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert (layer.bias == 0).all()
    rssm = RSSM(tiny(deter_size=64, hidden_size=32), A)
    recurrent = rssm.gru.weight_hh
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(64), atol=1e-5, rtol=0)
    for part in (rssm.stoch_in, rssm.action_in):  # two parts of one kernel share its limit
        limit = math.sqrt(6 / (rssm.stoch_size + A + 32))
        assert 0.8 * limit < part.weight.abs().max() <= limit


def test_actor_has_the_papers_shape():
    config = tiny(actor_init_std=5.0)
    actor = Actor(config, A, discrete=False)
    raw = torch.tensor([0.0, 100.0, -3.0, 0.0, 10.0, -50.0])
    nn.init.zeros_(actor.network[-1].weight)
    actor.network[-1].bias.data = raw
    mean, std = actor(torch.rand(config.feature_size))
    torch.testing.assert_close(mean, 5 * torch.tanh(raw[:3] / 5))
    expected = nn.functional.softplus(raw[3:] + math.log(math.e**5 - 1)) + 1e-4
    torch.testing.assert_close(std, expected)
    assert std[0].item() == pytest.approx(5, abs=1e-3)


# RSSM.


def test_posterior_is_the_papers_formula():
    config = tiny()
    rssm = RSSM(config, A).double()
    prev = State(torch.rand(2, rssm.deter_size), torch.rand(2, rssm.stoch_size))
    prev = State(*(x.double() for x in prev))
    action, embed = torch.rand(2, A).double(), torch.rand(2, config.embed_size).double()
    noise = torch.randn(2, rssm.stoch_size).double()
    state, belief = rssm.posterior(prev, action, embed, noise)

    kernel = torch.cat([rssm.stoch_in.weight, rssm.action_in.weight], 1)
    x = nn.functional.elu(torch.cat([prev.stoch, action], 1) @ kernel.T + rssm.action_in.bias)
    deter = rssm.gru(x, prev.deter)
    kernel = torch.cat([rssm.deter_in.weight, rssm.embed_in.weight], 1)
    x = nn.functional.elu(torch.cat([deter, embed], 1) @ kernel.T + rssm.embed_in.bias)
    mean, std = rssm.posterior_out(x).chunk(2, -1)
    std = nn.functional.softplus(std) + 0.1
    torch.testing.assert_close(state.deter, deter)
    torch.testing.assert_close(belief, Normal(mean, std))
    torch.testing.assert_close(state.stoch, mean + std * noise)


def test_gru_resets_after_the_product_as_keras_does():
    gru = RSSM(tiny(), A).double().gru
    x, h = torch.rand(2, gru.input_size).double(), torch.rand(2, gru.hidden_size).double()
    wr, wz, wn = (x @ w.T for w in gru.weight_ih.chunk(3))
    ur, uz, un = (h @ w.T for w in gru.weight_hh.chunk(3))
    reset, keep = torch.sigmoid(wr + ur), torch.sigmoid(wz + uz)
    new = torch.tanh(wn + reset * un)
    torch.testing.assert_close(gru(x, h), keep * h + (1 - keep) * new)


def test_observe_is_a_scan_of_posterior():
    config = tiny()
    rssm = RSSM(config, A).double()
    b, n = 2, 5
    embed = torch.rand(b, n, config.embed_size).double()
    action, noise = torch.rand(b, n, A).double(), torch.randn(b, n, rssm.stoch_size).double()
    observed = rssm.observe(embed, action, noise)
    state = rssm.initial(b)
    for t in range(n):
        state, belief = rssm.posterior(state, action[:, t], embed[:, t], noise[:, t])
        torch.testing.assert_close(observed.states.deter[:, t], state.deter)
        torch.testing.assert_close(observed.states.stoch[:, t], state.stoch)
        torch.testing.assert_close(observed.posterior.std[:, t], belief.std)
        prior = rssm.prior_belief(state.deter)
        torch.testing.assert_close(observed.prior.mean[:, t], prior.mean)


def test_imagine_is_a_scan_of_prior_without_the_start():
    rssm = RSSM(tiny(), A).double()
    start = State(torch.rand(4, rssm.deter_size).double(), torch.rand(4, rssm.stoch_size).double())
    noise = torch.randn(3, 4, rssm.stoch_size).double()
    states, actions = rssm.imagine(lambda state, step: state.feature[:, :A], start, noise)
    state = start
    for t in range(3):
        torch.testing.assert_close(actions[t], state.feature[:, :A])
        state = rssm.prior(state, actions[t], noise[t])
        torch.testing.assert_close(State(*(x[t] for x in states)), state)


# Losses.


def test_image_loss_is_a_log_probability_up_to_its_constant():
    prediction, image = torch.rand(2, 3, 64, 64, 3).double(), torch.rand(2, 3, 64, 64, 3).double()
    log_prob = td.Normal(prediction, 1.0).log_prob(image).sum((-3, -2, -1)).mean()
    constant = 0.5 * math.log(2 * math.pi) * 64 * 64 * 3
    torch.testing.assert_close(image_loss(prediction, image), -log_prob - constant)


@pytest.mark.parametrize("clip", ["average", "per_step"])
def test_free_nats_clip_the_average_or_each_step(clip):
    config = tiny(kl_clip=clip, kl_scale=0.7, free_nats=1.3)
    model, batch = WorldModel(config, A), random_batch(config)
    noise = torch.randn(3, 6, config.stoch_size)
    with torch.no_grad():
        _, observed = model.observe(to_float(batch.image), batch.action, noise)
        posterior = td.Normal(*observed.posterior)
        kl = td.kl_divergence(posterior, td.Normal(*observed.prior)).sum(-1)
        parts = model.losses(batch, noise).parts
    clipped = kl.mean().clamp(min=1.3) if clip == "average" else kl.clamp(min=1.3).mean()
    torch.testing.assert_close(parts["kl_loss"], 0.7 * clipped)
    torch.testing.assert_close(parts["kl"], kl.mean())


def test_discount_head_learns_gamma_and_ends():
    config = tiny(discount_head=True)
    model = WorldModel(config, A)
    batch = random_batch(config)._replace(terminal=torch.zeros(3, 6))
    batch.terminal[:, -1] = 1
    noise = torch.randn(3, 6, config.stoch_size)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model.losses(batch, noise).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    states = model.losses(batch, noise).states
    discount = model.discount(states.feature)
    assert (discount[:, :-1] > 0.9).all() and (discount[:, -1] < 0.1).all()


@pytest.mark.parametrize("representation", ["reconstruction", "contrastive", "reward"])
def test_loss_falls_on_a_fixed_batch(representation):
    config = tiny(representation=representation, free_nats=0.0)
    model, batch = WorldModel(config, A), random_batch(config)
    noise = torch.randn(3, 6, config.stoch_size)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = []
    for _ in range(40):
        losses = model.losses(batch, noise)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        history.append(losses.parts)
    for name in ("model_loss", "reward_loss"):
        assert history[-1][name] < history[0][name]


def test_total_is_the_sum_of_the_named_losses():
    config = tiny(discount_head=True)
    model, batch = WorldModel(config, A), random_batch(config)
    losses = model.losses(batch, torch.randn(3, 6, config.stoch_size))
    names = ["image_loss", "reward_loss", "kl_loss", "discount_loss"]
    torch.testing.assert_close(losses.total, sum(losses.parts[name] for name in names))


# Contrastive.


def test_a_dead_encoder_shows_in_the_variance_of_its_embeddings():
    config = tiny(representation="reward")
    model, batch = WorldModel(config, A), random_batch(config)
    noise = torch.randn(config.batch_size, config.length, config.stoch_size)
    embed = model.encoder(to_float(batch.image)).double().flatten(0, 1)
    expected = (embed - embed.mean(0)).square().mean()
    assert expected > 0
    found = model.losses(batch, noise).parts["embed_variance"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)
    with torch.no_grad():
        model.encoder.layers[-1].bias.fill_(-100)  # its ReLUs give 0 for every picture
    assert model.losses(batch, noise).parts["embed_variance"] == 0


def test_information_bound_is_its_definition():
    n, size = 6, 4
    belief = Normal(torch.randn(n, size).double(), torch.rand(n, size).double() + 0.2)
    feature = torch.randn(n, size).double()
    total = 0.0
    for i in range(n):
        scores = [
            td.Normal(belief.mean[j], belief.std[j]).log_prob(feature[i]).sum() for j in range(n)
        ]
        total += scores[i] - torch.stack(scores).logsumexp(0) + math.log(n)
    torch.testing.assert_close(information_bound(belief, feature), total / n)


def test_a_probe_decoder_has_no_gradient_into_the_model():
    for representation in ("contrastive", "reward"):
        config = tiny(representation=representation)
        model, batch = WorldModel(config, A), random_batch(config)
        losses = model.losses(batch, torch.randn(3, 6, config.stoch_size))
        gradients = torch.autograd.grad(
            losses.probe, model.model_parameters(), allow_unused=True, retain_graph=True
        )
        assert all(gradient is None for gradient in gradients)
        probe = torch.autograd.grad(losses.probe, list(model.probe.parameters()))
        assert all(gradient.abs().max() > 0 for gradient in probe)
        assert (
            WorldModel(tiny(representation=representation, probe_decoder=False), A).decoder is None
        )
