"""Value estimates against explicit sums (Eq. 4 to 6)."""

import pytest
import torch

from dreamer.returns import cumulative_weights, lambda_return, reward_sum

T, N, GAMMA = 7, 3, 0.9


@pytest.fixture
def trajectory() -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards r_1..r_T and values v_2..v_{T+1}, [T, N]."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(2, T, N, generator=generator, dtype=torch.float64)
    return draw[0], draw[1]


def n_step(reward: torch.Tensor, next_value: torch.Tensor, t: int, n: int) -> torch.Tensor:
    """V_N^n (Eq. 5) at step t: n rewards, then the value; cut at the last step."""
    end = min(t + n, T)
    total = sum(GAMMA ** (i - t) * reward[i] for i in range(t, end))
    return total + GAMMA ** (end - t) * next_value[end - 1]


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_lambda_return_is_the_weighted_sum_of_n_step_returns(trajectory, lam):
    reward, next_value = trajectory
    result = lambda_return(reward, next_value, torch.full_like(reward, GAMMA), lam)
    for t in range(T):
        longest = T - t
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, longest)] + [lam ** (longest - 1)]
        assert sum(weights) == pytest.approx(1)
        terms = [
            w * n_step(reward, next_value, t, n)
            for n, w in zip(range(1, T + 1), weights, strict=False)
        ]
        torch.testing.assert_close(result[t], sum(terms))


def test_lambda_zero_is_one_step(trajectory):
    reward, next_value = trajectory
    discount = torch.full_like(reward, GAMMA)
    result = lambda_return(reward, next_value, discount, 0.0)
    torch.testing.assert_close(result, reward + GAMMA * next_value)


def test_lambda_one_is_the_discounted_sum_with_bootstrap(trajectory):
    reward, next_value = trajectory
    result = lambda_return(reward, next_value, torch.full_like(reward, GAMMA), 1.0)
    powers = GAMMA ** torch.arange(T, dtype=torch.float64)[:, None]
    torch.testing.assert_close(result[0], (powers * reward).sum(0) + GAMMA**T * next_value[-1])


def test_a_case_worked_by_hand():
    # V_2 = 2 + 0.5 * 8 = 6;  V_1 = 1 + 0.5 * (0.5 * 4 + 0.5 * 6) = 3.5
    reward = torch.tensor([[1.0], [2.0]])
    next_value = torch.tensor([[4.0], [8.0]])
    result = lambda_return(reward, next_value, torch.full((2, 1), 0.5), 0.5)
    assert result.tolist() == [[3.5], [6.0]]


def test_an_end_cuts_what_follows(trajectory):
    reward, next_value = trajectory
    discount = torch.full_like(reward, GAMMA)
    discount[3] = 0
    result = lambda_return(reward, next_value, discount, 0.95)
    later = reward.clone()
    later[4:] *= 9
    changed = lambda_return(later, next_value, discount, 0.95)
    torch.testing.assert_close(result[3], reward[3])
    torch.testing.assert_close(result[:4], changed[:4])


def test_reward_sum_is_eq_4(trajectory):
    reward, _ = trajectory
    plain = reward_sum(reward, torch.ones_like(reward))
    torch.testing.assert_close(plain[2], reward[2:].sum(0))
    discounted = reward_sum(reward, torch.full_like(reward, GAMMA))
    powers = GAMMA ** torch.arange(T - 2, dtype=torch.float64)[:, None]
    torch.testing.assert_close(discounted[2], (powers * reward[2:]).sum(0))


def test_weights_are_the_probability_to_get_there():
    discount = torch.tensor([[0.9], [0.5], [0.8]], requires_grad=True)
    weights = cumulative_weights(discount)
    torch.testing.assert_close(weights, torch.tensor([[1.0], [0.9], [0.45]]))
    assert not weights.requires_grad
