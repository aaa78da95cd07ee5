"""Distributions against torch.distributions and definitions, in float64."""

import math

import numpy as np
import pytest
import torch
from torch import distributions as td

from dreamer.distributions import Normal, OneHot, TanhNormal, cut_saturated, normal_kl


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def draw_normal(generator: torch.Generator, *shape: int) -> Normal:
    mean = torch.randn(*shape, generator=generator, dtype=torch.float64)
    std = torch.rand(*shape, generator=generator, dtype=torch.float64) + 0.1
    return Normal(mean, std)


def test_kl_equals_torch_distributions(generator):
    p, q = draw_normal(generator, 7, 5), draw_normal(generator, 7, 5)
    expected = td.kl_divergence(td.Normal(*p), td.Normal(*q)).sum(-1)
    torch.testing.assert_close(normal_kl(p, q), expected, rtol=1e-12, atol=1e-12)
    assert normal_kl(p, p).abs().max() < 1e-12


def test_normal_log_prob_equals_torch_distributions(generator):
    p = draw_normal(generator, 7, 5)
    value = p.sample(torch.randn(7, 5, generator=generator, dtype=torch.float64))
    expected = td.Normal(*p).log_prob(value).sum(-1)
    torch.testing.assert_close(p.log_prob(value), expected, rtol=1e-12, atol=1e-12)


def test_tanh_normal_log_prob_equals_torch_distributions(generator):
    p = TanhNormal(*draw_normal(generator, 200, 3))
    reference = td.TransformedDistribution(td.Normal(*p), td.TanhTransform(cache_size=1))
    action = p.sample(torch.randn(200, 3, generator=generator, dtype=torch.float64))
    expected = reference.log_prob(action).sum(-1)
    torch.testing.assert_close(p.log_prob(action), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_normal_log_prob_is_finite_at_the_edges(dtype):
    p = TanhNormal(torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype))
    action = torch.tensor([[-1.0], [1.0], [0.9999999]], dtype=dtype, requires_grad=True)
    log_prob = p.log_prob(action)
    (gradient,) = torch.autograd.grad(log_prob.sum(), action)
    assert log_prob.isfinite().all() and gradient.isfinite().all()
    torch.testing.assert_close(log_prob[0], log_prob[1])


def test_tanh_normal_mode_is_the_most_likely_of_its_samples(generator):
    p = TanhNormal(*draw_normal(generator, 6, 2))
    noise = torch.randn(100, 6, 2, generator=generator, dtype=torch.float64)
    samples = p.sample(noise)
    reference = td.TransformedDistribution(td.Normal(*p), td.TanhTransform())
    best = reference.log_prob(samples).sum(-1).argmax(0)
    expected = torch.stack([samples[k, i] for i, k in enumerate(best)])
    torch.testing.assert_close(p.mode(noise), expected)


@pytest.mark.parametrize("mean", [0.3, 1.0, -0.3])
def test_a_wide_policys_mode_is_the_sign_of_its_mean(generator, mean):
    """The first sample that saturates on the mean's side, as in the released code: its density is
    the largest there is once actions are clipped at 0.99999997, in single precision 1 - 2^-24."""
    count, std = 5000, 5.0
    noise = torch.randn(100, count, 1, generator=generator)
    mode = TanhNormal(torch.full((count, 1), mean), torch.full((count, 1), std)).mode(noise)
    edge = float(np.arctanh(1 - 2.0**-24))
    raw = math.copysign(1, mean) * (mean + std * noise)[..., 0]
    saturated = raw > edge
    first = saturated.float().argmax(0)
    expected = math.copysign(1, mean) * torch.tanh(raw.gather(0, first[None])[0])
    some = saturated.any(0)
    assert torch.equal(mode[some, 0], expected[some])
    none = td.Normal(abs(mean), std).cdf(torch.tensor(edge)) ** 100  # probability: 0.2 to 0.8 %
    assert 1 - some.float().mean() < 1.5 * none + 0.001
    assert math.copysign(1, mean) * mode.mean() > 1 - 2 * (1.5 * none + 0.001)


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0, 5.0])
def test_the_mode_is_the_released_codes(generator, std):
    """Slowly, from the actions: clipped, tanh inverted, the first of the most likely."""
    mean = torch.linspace(-1.5, 1.5, 60)[:, None].expand(60, 2).contiguous()
    p = TanhNormal(mean, torch.full_like(mean, std))
    noise = torch.randn(100, 60, 2, generator=generator)
    action = p.sample(noise).double().numpy()
    clipped = np.clip(action, -np.float32(0.99999997), np.float32(0.99999997)).astype(np.float64)
    z = (np.arctanh(clipped) - mean.double().numpy()) / std
    density = (-0.5 * z**2 - np.log(std) - np.log1p(-(clipped**2))).sum(-1)
    expected = np.take_along_axis(action, density.argmax(0)[None, :, None], 0)[0]
    np.testing.assert_allclose(p.mode(noise).numpy(), expected, atol=1e-5)


def test_saturated_actions_have_the_gradient_of_half_precision():
    raw = torch.linspace(-8, 8, 4001, requires_grad=True)
    (exact,) = torch.autograd.grad(torch.tanh(raw).sum(), raw)
    action = cut_saturated(torch.tanh(raw))
    assert torch.equal(action, torch.tanh(raw))
    (gradient,) = torch.autograd.grad(action.sum(), raw)
    rounded = torch.tanh(raw).half().abs() == 1
    assert 0 < rounded.sum() < len(raw)
    assert torch.equal(gradient, torch.where(rounded, 0, exact))


def test_one_hot_samples_follow_their_probabilities(generator):
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    noise = torch.randn(200_000, 4, generator=generator)
    sample = OneHot(logits.expand(200_000, 4)).sample(noise)
    assert ((sample > 0.5).sum(-1) == 1).all()
    # The standard error of a frequency here is about 0.001.
    torch.testing.assert_close(sample.mean(0), logits.softmax(-1), atol=0.005, rtol=0)


def test_one_hot_gradient_is_that_of_the_probabilities(generator):
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    (straight_through,) = torch.autograd.grad((OneHot(logits).sample(noise) * weight).sum(), logits)
    (definition,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    torch.testing.assert_close(straight_through, definition)


def test_one_hot_log_prob_equals_torch_distributions(generator):
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    action = torch.eye(4, dtype=torch.float64)[[0, 3, 2, 1, 0]]
    expected = td.OneHotCategorical(logits=logits).log_prob(action)
    torch.testing.assert_close(OneHot(logits).log_prob(action), expected)


def test_one_hot_samples_are_exactly_one_hot():
    """Environments accept nothing else; the gradient's term must not leave a rounding error."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2000, 18, generator=generator)
    sample = OneHot(logits).sample(torch.randn(2000, 18, generator=generator))
    assert ((sample == 0) | (sample == 1)).all() and (sample.sum(-1) == 1).all()
