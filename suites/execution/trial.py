"""Makes each environment of others once, before any run starts, and takes its first picture. So a
missing module or a wrong argument is one error at once, instead of a failure of every run.

    python -m suites.execution.trial < configs.json

This is a process of its own, since their code may end it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dreamer.command_line import main
from dreamer.config import config_from_dict
from dreamer.errors import UserError
from suites.execution.environment import cores, gpus, worker_environment
from suites.execution.spec import last_line
from suites.record.provenance import ROOT

WITHIN_S = 600.0
DIFFER_BY = ("task", "environment", "observation")  # settings that make another environment


def try_tasks(configs: Iterable[Mapping[str, Any]]) -> None:
    """Makes the environments of tasks with a prefix or a module, each once. Raises UserError."""
    tried = {
        tuple(config[key] for key in DIFFER_BY): dict(config)
        for config in configs
        if ":" in config["task"]
    }
    if not tried:
        return
    try:
        done = subprocess.run(
            [sys.executable, "-m", "suites.execution.trial"], input=json.dumps([*tried.values()]),
            env=worker_environment(ROOT, 0, 1, gpus()[:1], cores()), capture_output=True,
            encoding="utf-8", errors="replace", timeout=WITHIN_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        tasks = ", ".join(dict.fromkeys(task for task, *_ in tried))
        raise UserError(f"task: {tasks}: no first picture within {WITHIN_S:.0f} s") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise UserError(f"task: {last_line(done.stdout)}: its process was ended by {name}")
    if done.returncode > 0:
        raise UserError(last_line(done.stderr) or "task: its process ended without a message")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    return argparse.Namespace(configs=json.load(sys.stdin))


def _try(options: argparse.Namespace) -> int:
    from dreamer.envs.environment import make_environment

    for settings in options.configs:
        print(settings["task"], flush=True)
        env = make_environment(config_from_dict(settings))
        env.reset(settings["seed"])
        env.close()
    return 0


if __name__ == "__main__":
    code = main(_parse, _try, [])
    sys.stderr.flush()
    os._exit(code)  # whatever threads their code has left
