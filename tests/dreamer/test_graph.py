"""Updates as a CUDA graph: the buffers everywhere, the graph itself where there is a GPU."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from dreamer.agent import Agent
from dreamer.config import make_config
from dreamer.envs.simulators import ActionSpace
from dreamer.fast.cuda_graph import WARM_UP, Graphed, copied, copy_into, parity
from dreamer.replay import Batch

SPACE = ActionSpace(2, discrete=False)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="captures a CUDA graph: no GPU here")


def tiny(**overrides: Any):
    small = dict(batch_size=3, length=5, horizon=4, conv_depth=2, dense_units=16, deter_size=12)
    return make_config("tiny", {**small, **overrides})


def batches(config, count: int, seed: int = 0) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    shape = (config.batch_size, config.length)
    for _ in range(count):
        yield Batch(
            torch.randint(0, 256, (*shape, 64, 64, 3), dtype=torch.uint8, generator=generator),
            torch.rand(*shape, 2, generator=generator) * 2 - 1,
            torch.rand(*shape, generator=generator),
            torch.zeros(shape),
        )


def run_again(run):
    """Stands for a recording where there is no GPU: the same reads and writes, launched anew."""
    return run


VARIANTS = [
    {},
    {"value_target": "slow", "slow_value_every_updates": 2},
    {"behaviour": "no_value", "representation": "contrastive"},
    {"behaviour": "planet", "planner_elites": 3, "representation": "reward"},
    {"discount_head": True},
    {"precision": "bf16"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_updates_through_static_buffers_are_the_plain_updates(variant):
    config = tiny(**variant)
    plain, buffered = Agent(config, SPACE), Agent(config, SPACE)
    buffered._learn = graphed = Graphed(buffered.learn, record=run_again)
    for number, batch in enumerate(batches(config, WARM_UP + 4)):
        expected, watched = plain.update(batch, number), buffered.update(batch, number)
        assert watched.keys() == expected.keys()
        assert all(torch.equal(watched[name], expected[name]) for name in expected)
    assert graphed.replay is not None
    # In checkpoints, too, one cannot be told from the other.
    ours, theirs = buffered.state_dict(), plain.state_dict()
    assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in theirs["model"])


class NoWaiting(TorchDispatchMode):
    """Refuses what a GPU would have to be waited for: results that decide what comes next."""

    WAITS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(tag in func.tags for tag in self.WAITS), f"{func} waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_an_update_waits_for_nothing_and_changes_all_in_place(variant):
    """What a recording asks of it, also where there is no GPU."""
    config = tiny(**variant)
    agent = Agent(config, SPACE)

    def places() -> list[int]:
        averages = [
            s for o in agent.optimisers.values() for p in o.state.values() for s in p.items()
        ]
        tensors = [*agent.model.parameters(), *agent.behaviour.parameters()]
        return [tensor.data_ptr() for tensor in [*tensors, *(s for _, s in averages)]]

    first, second = batches(config, 2)
    agent.update(first, 0)  # Adam makes its averages
    before, noise = places(), agent.draw_noise(1)
    with NoWaiting():
        agent.learn(second, noise)
    assert places() == before
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        torch.ones(2).sum().item()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "precision" not in v], ids=str)
def test_an_update_makes_every_tensor_on_its_device(variant, monkeypatch):
    """On `meta`, which knows shapes only: it mixes with tensors of a CPU no more than a GPU does.
    It has neither autocast nor fused Adam."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    config, meta = tiny(**variant), torch.device("meta")
    agent, here = Agent(config, SPACE, meta), Agent(config, SPACE)
    agent.optimisers = {
        name: torch.optim.Adam(parameters, foreach=False)
        for name, parameters in agent.parameters.items()
    }
    batch, noise = tree_map_only(
        torch.Tensor, lambda x: x.to(meta), (next(batches(config, 1)), here.draw_noise(0))
    )
    agent.learn(batch, noise)
    assert {p.device for group in agent.parameters.values() for p in group} == {meta}
    assert agent.initial_memory(2).action.device == meta
    with pytest.raises(RuntimeError, match="device"):
        agent.learn(batch._replace(reward=batch.reward.new_zeros(3, 5, device="cpu")), noise)


def test_results_are_not_overwritten_by_later_calls():
    weight = torch.ones(3)

    def learn(x: torch.Tensor, pair: tuple) -> dict[str, torch.Tensor]:
        assert pair[1] is None
        weight.add_(x + pair[0])
        return {"sum": weight.sum(), "mean": weight.mean()}

    graphed = Graphed(learn, record=run_again)
    results = [graphed(torch.full((3,), float(n)), (torch.ones(3), None)) for n in range(6)]
    total = np.cumsum([n + 1 for n in range(6)]) + 1
    assert [r["mean"].item() for r in results] == total.tolist()
    assert [r["sum"].item() for r in results] == (3 * total).tolist()


def test_what_cannot_be_recorded_is_computed_plainly_and_said_once(capsys):
    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    graphed = Graphed(lambda x: {"twice": 2 * x}, record=refuse)
    assert [graphed(torch.tensor(n))["twice"].item() for n in range(6)] == [0, 2, 4, 6, 8, 10]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "not permitted when stream is capturing" in said[0]


def test_buffers_refuse_other_shapes():
    static = copied((torch.zeros(2, 3), None, (torch.zeros(4),)))
    copy_into(static, (torch.ones(2, 3), None, (torch.ones(4),)))
    assert static[0].sum() == 6 and static[2][0].sum() == 4
    with pytest.raises(ValueError, match=r"was .* is "):
        copy_into(static, (torch.ones(1, 3), None, (torch.ones(4),)))


def test_a_cpu_needs_no_graph_and_off_is_off():
    agent = Agent(tiny(), SPACE)
    assert agent._learn == agent.learn
    if torch.cuda.is_available():
        off = Agent(tiny(cuda_graph="off"), SPACE, "cuda")
        assert off._learn == off.learn


# Where there is a GPU.


@pytest.fixture
def exact_gpu(monkeypatch):
    """Kernels that give the same bits twice."""
    for name, value in (("deterministic", True), ("benchmark", False), ("allow_tf32", False)):
        monkeypatch.setattr(torch.backends.cudnn, name, value)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def graph_and_plain(config) -> tuple[Agent, Agent]:
    return Agent(config, SPACE, "cuda"), Agent(
        dataclasses.replace(config, cuda_graph="off"), SPACE, "cuda"
    )


@gpu
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_graph_equals_plain_after_100_updates(variant, exact_gpu):
    config = tiny(**variant)
    graph, plain = graph_and_plain(config)
    assert parity(graph, plain, batches(config, 100)) < 1e-3
    assert graph._learn.replay is not None  # it was a graph


@gpu
def test_the_graph_survives_what_happens_between_updates(exact_gpu):
    """Evaluation, a checkpoint, another learning rate, and going back to the checkpoint."""
    config = tiny(value_target="slow", slow_value_every_updates=5)
    graph, plain = graph_and_plain(config)
    assert parity(graph, plain, batches(config, 10)) < 1e-4
    states = [copied_state(agent.state_dict()) for agent in (graph, plain)]
    for agent in (graph, plain):
        generator = torch.Generator("cuda").manual_seed(0)
        image, memory = np.zeros((1, 64, 64, 3), np.uint8), agent.initial_memory(1)
        for _ in range(3):
            _, memory = agent.policy(image, memory, generator, None)
        for optimiser in agent.optimisers.values():
            optimiser.param_groups[0]["lr"].mul_(0.5)
    assert parity(graph, plain, batches(config, 20, seed=1)) < 1e-4
    before = [p.detach().clone() for p in graph.parameters["actor"]]
    for optimiser in graph.optimisers.values():
        optimiser.param_groups[0]["lr"].zero_()
    graph.update(next(batches(config, 1)), 30)
    assert all(torch.equal(a, b) for a, b in zip(before, graph.parameters["actor"], strict=True))
    for agent, state in zip((graph, plain), states, strict=True):
        agent.load_state_dict(state)
        for optimiser in agent.optimisers.values():
            optimiser.param_groups[0]["lr"].fill_(1e-3)
    assert parity(graph, plain, batches(config, 20, seed=2)) < 1e-4


def copied_state(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: copied_state(value) for key, value in state.items()}
    return state.clone() if isinstance(state, torch.Tensor) else state
