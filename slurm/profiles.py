"""Profiles: how to ask a cluster for resources. Read from profiles.yaml as strictly as a suite.

A mistake is a UserError of one line that names file, line and key. Text stays as it is written
(account `0123`, environment `off`). Duplicate keys are refused. `time` is minutes, H:MM:SS or
D-HH:MM:SS.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dreamer.errors import nearest
from slurm.ask import seconds_of
from suites.language import nodes
from suites.language.nodes import Node

PROFILES = Path(__file__).with_name("profiles.yaml")
OWN_OPTIONS = ("environment", "sbatch", "max_submit_jobs", "max_array_size", "requeue")
# Options of submitit that slurm/sbatch.py sets.
RESERVED = ("job_name", "additional_parameters", "ntasks_per_node", "nodes", "use_srun")
# Options of submitit that are not text: whole numbers, and lists of lines.
WHOLE = ("array_parallelism", "cpus_per_gpu", "cpus_per_task", "gpus_per_node", "gpus_per_task",
         "num_gpus", "signal_delay_s")  # fmt: skip
LINES = ("setup", "srun_args", "teardown")


class Profile(NamedTuple):
    """How to ask for resources."""

    name: str
    options: dict[str, Any]  # submitit's; time in minutes
    environment: dict[str, str]
    sbatch: dict[str, Any]  # further options of sbatch: {name: value, or True for a flag}
    max_submit_jobs: int | None
    max_array_size: int | None
    requeue: bool

    @property
    def gpus(self) -> int:
        return int(self.options.get("gpus_per_node") or 0)


def load_profile(name: str | None) -> Profile:
    """The profile of that name, `default` for None, from the file in DREAMER_SLURM_PROFILES or from
    profiles.yaml. Raises UserError."""
    path = Path(os.environ.get("DREAMER_SLURM_PROFILES") or PROFILES)
    root = nodes.load(path)
    profiles = root.mapping()
    name = name or "default"
    if name not in profiles:
        raise root.error(f"no profile {name!r}; {nearest(name, profiles)}")
    return make_profile(name, profiles[name])


def make_profile(name: str, node: Node) -> Profile:
    """The profile that a mapping of options describes. Raises UserError."""
    given = node.mapping()
    valid = valid_options()
    for key, value in given.items():
        if key not in valid and key not in OWN_OPTIONS:
            names = ", ".join((*sorted(valid), *OWN_OPTIONS))
            raise node.error(f"no option {key!r} ({value.where}); valid are {names}")
    options = {k: _option(k, v) for k, v in given.items() if k in valid}
    return Profile(
        name=name,
        options=options,
        environment=_environment(given),
        sbatch=_sbatch_options(given),
        max_submit_jobs=_whole(given, "max_submit_jobs"),
        max_array_size=_whole(given, "max_array_size"),
        requeue=_flag(given["requeue"]) if "requeue" in given else True,
    )


@cache
def valid_options() -> frozenset[str]:
    """The options of submitit that a profile may give."""
    from submitit import SlurmExecutor

    return frozenset(SlurmExecutor._valid_parameters() - set(RESERVED))


def minutes(node: Node) -> int:
    """A time limit: whole minutes, H:MM:SS or D-HH:MM:SS; seconds are rounded up to a minute."""
    if type(node.value) is int:
        return node.whole(1)
    seconds = seconds_of(node.written or "")
    if seconds is None:
        raise node.error(
            f"{node.written or nodes.kind(node.value)} is no time limit;"
            " give minutes (90), H:MM:SS (1:30:00) or D-HH:MM:SS (1-00:00:00)"
        )
    if seconds == 0:
        raise node.error("0 minutes is less than 1")
    return math.ceil(seconds / 60)


def _option(key: str, node: Node) -> Any:
    if key == "time":
        return minutes(node)
    if key in WHOLE:
        return node.whole(0 if "gpu" in key else 1)
    if key in LINES:
        if not isinstance(node.value, list):
            raise node.error("a list of lines is expected")
        return [_text(item) for item in node.value]
    if isinstance(node.value, bool):  # exclusive, stderr_to_stdout
        return node.value
    text = _text(node)
    if not text:
        raise node.error("a value is expected")
    return text


def _text(node: Node) -> str:
    """The value as it is written, not as YAML reads it."""
    if node.written is None:
        raise node.error(f"text is expected, not {nodes.kind(node.value)}")
    return node.written


def _flag(node: Node) -> bool:
    if not isinstance(node.value, bool):
        raise node.error(f"true or false is expected, not {nodes.kind(node.value)}")
    return node.value


def _whole(given: Mapping[str, Node], key: str) -> int | None:
    return given[key].whole(1) if key in given else None


def _environment(given: Mapping[str, Node]) -> dict[str, str]:
    if "environment" not in given:
        return {}
    values = given["environment"].mapping()
    for name, node in values.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise node.error(f"{name!r} cannot be the name of an environment variable")
    return {name: _text(node) for name, node in values.items()}


def _sbatch_options(given: Mapping[str, Node]) -> dict[str, Any]:
    """["--reservation=lab", "--exclusive"] -> {"reservation": "lab", "exclusive": True}"""
    options: dict[str, Any] = {}
    for node in given["sbatch"].sequence() if "sbatch" in given else []:
        found = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.+))?", _text(node))
        if not found:
            raise node.error(f"{node.written}: --option or --option=value is expected")
        options[found[1]] = found[2] or True
    return options
