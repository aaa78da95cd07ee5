"""Distributions against torch.distributions and definitions, in float64."""

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
