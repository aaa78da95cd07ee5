"""Complete runs of seconds on toys, and what two equal runs have in common."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamer.checkpoint import checkpoint_paths, load_checkpoint
from dreamer.config import Config, make_config

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["dreamer.train"])


def minute(task: str = "toy_dot", **overrides: Any) -> Config:
    """A complete run in seconds."""
    settings = dict(
        task=task,
        env_steps=1200,
        time_limit_env_steps=40,
        seed_episodes=2,
        first_updates=7,
        updates_per_1000_env_steps=100,
        eval_every_env_steps=200,
        eval_episodes=2,
        checkpoint_every_env_steps=80,
        log_every_updates=5,
        batch_size=4,
        length=5,
        horizon=3,
        conv_depth=2,
        deter_size=12,
        stoch_size=4,
        hidden_size=12,
        dense_units=12,
    )
    return make_config("tiny", {**settings, **overrides})


def records(run_dir: Path) -> list[dict]:
    """The content of metrics.jsonl without the seconds, which differ."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds_")} for line in lines]


def last_checkpoint(run_dir: Path) -> dict:
    return load_checkpoint(checkpoint_paths(run_dir / "checkpoints")[-1])


def assert_same(a: Any, b: Any) -> None:
    """Bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def assert_same_run(a: Path, b: Path) -> None:
    """Same metrics, same weights, same optimisers, same replay, same prediction."""
    assert records(a) == records(b)
    ours, theirs = last_checkpoint(a), last_checkpoint(b)
    for content in (ours, theirs):
        del content["seconds"], content["metrics_bytes"]  # lengths of the seconds' digits
    assert_same(ours, theirs)
    for name in ("images.lz4", "steps.f32", "episodes.jsonl"):
        assert (a / "replay" / name).read_bytes() == (b / "replay" / name).read_bytes()
    with np.load(a / "prediction.npz") as x, np.load(b / "prediction.npz") as y:
        assert all(np.array_equal(x[key], y[key]) for key in ("truth", "model", "env_steps"))


def stopper(run_dir: Path, env_steps: int):
    """Asks to stop once the metrics have got that far."""

    def should_stop() -> bool:
        lines = records(run_dir)
        return bool(lines) and lines[-1]["env_steps"] >= env_steps

    return should_stop
