"""What a source of records is, and what analysis keeps of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from dreamer.errors import UserError

METRICS = ("evaluate_return", "episode_return")  # always read
UNKNOWN_ATTEMPT = 0  # attempts are numbered from 1
PROVENANCE_KEYS = ("code", "started", "executor", "command", "renderer", "overrides", "suites",
                   "own")  # fmt: skip


class Points(NamedTuple):
    """The chosen values of one run, each metric in the order of the record. P values."""

    env_steps: np.ndarray  # [P] int64
    metric: np.ndarray  # [P] int16, index into the chosen metrics
    value: np.ndarray  # [P] float64; NaN stands for null and NaN
    attempt: np.ndarray  # [P] int16


class RunRow(NamedTuple):
    """What analysis keeps of one run."""

    columns: dict[str, Any]  # its row in the table of runs, without the status
    points: Points


class Source(Protocol):
    """Where records come from. Two sources of one run give the same `RunRow`."""

    @property
    def cache(self) -> Path | None:
        """The folder in which values may be kept between calls."""

    def run_ids(self) -> list[str]:
        """All runs of the source, sorted."""

    def fingerprint(self, run_id: str) -> str:
        """Changes whenever the run's values, settings or provenance change."""

    def config(self, run_id: str) -> dict[str, Any] | None:
        """The run's settings; None where they cannot be read."""

    def read(self, run_id: str, metrics: Sequence[str]) -> RunRow:
        """Settings, provenance and the chosen metrics; raises UserError for a damaged run."""

    def metric_names(self, run_id: str) -> list[str]:
        """The metrics that the run has values of."""

    def status(self, run_id: str) -> dict[str, Any]:
        """The run's last known `status` and `error`; never cached."""

    def prediction(self, run_id: str) -> bytes | None:
        """The run's prediction.npz, if it has one."""


def points_of(rows: Sequence[tuple[int, int, float, int]]) -> Points:
    """From a row for each value, with the fields of Points."""
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    kinds = (np.int64, np.int16, np.float64, np.int16)
    return Points(*(np.array(c, kind) for c, kind in zip(columns, kinds, strict=True)))


def joined(parts: Sequence[Points]) -> Points:
    """The values of several runs, one run after the other."""
    return Points(*map(np.concatenate, zip(*parts or [points_of([])], strict=True)))


def run_row(
    run_id: str,
    config: Mapping[str, Any],
    attempts: Sequence[Mapping[str, Any]],
    points: Points,
    warnings: Sequence[str],
) -> RunRow:
    """A run from its settings, its attempts' provenance and its values.

    Raises UserError where the settings do not say what the run is.
    """
    missing = [key for key in ("task", "seed", "behaviour", "representation") if key not in config]
    if missing:
        raise UserError(f"{run_id}: its settings lack {', '.join(missing)}")
    # The version of the code: a commit, plus `+` and a hash if files were changed.
    commits = {str(item["attempt"]): str(item.get("code") or "") for item in attempts}
    backwards = any(
        (np.diff(points.env_steps[points.metric == index]) <= 0).any()
        for index in np.unique(points.metric)
    )
    columns = {
        "run_id": run_id,
        "task": str(config["task"]),
        "behaviour": str(config["behaviour"]),
        "representation": str(config["representation"]),
        "seed": int(config["seed"]),
        "preset": str(config.get("preset", "")),
        "budget_env_steps": int(config.get("env_steps", 0)),
        "last_env_steps": int(points.env_steps.max(initial=0)),
        "attempts": len(attempts),
        "commits": commits,
        "synthetic": any(bool(item.get("synthetic")) for item in attempts),
        "provenance": _short_provenance(attempts[-1]) if attempts else {},
        "config": dict(config),
        "warnings": [*warnings, *(["env_steps repeat or go back"] if backwards else [])],
    }
    return RunRow(columns, points)


def _short_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an attempt's provenance that a list of runs shows."""
    short = {key: provenance[key] for key in PROVENANCE_KEYS if key in provenance}
    machine = provenance.get("machine")
    host = machine.get("host") if isinstance(machine, Mapping) else None
    return {**short, **({"host": host} if host else {})}
