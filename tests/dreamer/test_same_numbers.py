"""Seeded toy runs compute today what they computed when their numbers were written down.

On the platform where they were written (same torch, same kind of processor) weights and metrics are
equal bit for bit; elsewhere metrics agree to rounding. A change that is meant to change numbers
writes them anew, and its commit says why:

    python tests/dreamer/test_same_numbers.py > tests/data/same_numbers.json
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import last_checkpoint, minute, records

from dreamer.train import train

WRITTEN = Path(__file__).parents[1] / "data" / "same_numbers.json"
PLANNER = {"planner_candidates": 20, "planner_elites": 5, "planner_horizon": 3}
CASES: dict[str, dict[str, Any]] = {
    "dreamer": {},
    "no_value": {"behaviour": "no_value"},
    "planet": {"behaviour": "planet", **PLANNER},
    "contrastive": {"representation": "contrastive"},
    "reward": {"representation": "reward"},
    "one-hot actions": {"task": "toy_discrete"},
    "early end": {"task": "toy_end", "discount_head": True, "reward_transform": "tanh"},
    "submission": {
        "value_target": "slow",
        "slow_value_every_updates": 5,
        "exploration_action": "mode",
        "actor_gradient": "exact",
    },
    "half precision": {"precision": "bf16"},
}


def this_platform() -> str:
    """What last bits depend on: torch and the processor's kind."""
    try:
        about = Path("/proc/cpuinfo").read_text()
    except OSError:
        about = ""
    kind = [re.search(rf"^{key}\s*: (.*)$", about, re.M) for key in ("cpu family", "model")]
    processor = " ".join(found[1] if found else "?" for found in kind)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {platform.machine()} {processor}, {capability}"


def numbers(case: str, run_dir: Path) -> dict[str, Any]:
    """A run's last metrics, and the checksum of all its metrics and weights."""
    train(minute(**{"env_steps": 280, **CASES[case]}), run_dir)
    metrics = [line for line in records(run_dir) if line["kind"] != "time"]
    checksum = hashlib.sha256(json.dumps(metrics, sort_keys=True).encode())
    for name, tensor in sorted(_tensors(last_checkpoint(run_dir)["agent"])):
        checksum.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    last = {line.pop("kind"): line for line in metrics}
    return {"sha256": checksum.hexdigest(), "update": last["update"], "episode": last["episode"]}


def _tensors(tree: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        yield name, tree
    elif isinstance(tree, dict):
        for key, part in tree.items():
            yield from _tensors(part, f"{name}/{key}")


@pytest.mark.parametrize("case", CASES)
def test_a_seeded_run_computes_what_it_did(case: str, tmp_path: Path) -> None:
    written = json.loads(WRITTEN.read_text())
    expected, found = written["runs"][case], numbers(case, tmp_path)
    tolerance = 0.05 if case == "half precision" else 1e-3
    for kind in ("update", "episode"):
        assert found[kind].keys() == expected[kind].keys()
        for name, value in expected[kind].items():
            assert found[kind][name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
    if this_platform() == written["platform"]:
        assert found["sha256"] == expected["sha256"], "the same to rounding, but not bit for bit"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = {case: numbers(case, Path(folder) / case.replace(" ", "_")) for case in CASES}
    print(json.dumps({"platform": this_platform(), "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
