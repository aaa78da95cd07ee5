"""Curves as files: the JSON format in which Dreamer's scores were released, and CSV.

JSON: a list of `{"task", "method", "seed", "xs": [env_steps], "ys": [episode return]}`.
CSV: columns `task, method, seed, env_steps, episode_return`; `method` is optional.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dreamer.errors import UserError
from dreamer.run_folder import read_bytes, write_text

COLUMNS = ("task", "method", "seed", "env_steps", "episode_return")


def read_curves(path: Path) -> pd.DataFrame:
    """The curves in a JSON or CSV file as a frame with COLUMNS. Raises UserError."""
    try:
        text = read_bytes(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from None
    return read_released(path, text) if text.lstrip()[:1] in ("[", "{") else read_csv(path)


def read_released(path: Path, text: str) -> pd.DataFrame:
    """The released format. The prefix `dmc_` of its task names is removed."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: a list of curves is expected")
    parts = []
    for number, entry in enumerate(entries):
        xs, ys = _checked(path, number, entry)
        parts.append(
            pd.DataFrame(
                {
                    "task": str(entry["task"]).removeprefix("dmc_"),
                    "method": str(entry["method"]),
                    "seed": str(entry["seed"]),
                    "env_steps": xs,
                    "episode_return": ys,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _checked(path: Path, number: int, entry: Any) -> tuple[np.ndarray, np.ndarray]:
    where = f"{path}: curve {number}"
    if not isinstance(entry, dict):
        raise UserError(f"{where}: an object is expected")
    missing = [key for key in ("task", "method", "seed", "xs", "ys") if key not in entry]
    if missing:
        raise UserError(f"{where}: no {', '.join(missing)}")
    try:
        xs, ys = np.asarray(entry["xs"], float), np.asarray(entry["ys"], float)
    except (TypeError, ValueError):
        raise UserError(f"{where}: xs and ys are lists of numbers") from None
    if xs.ndim != 1 or xs.shape != ys.shape:
        raise UserError(f"{where}: {xs.size} xs and {ys.size} ys")
    if not np.isfinite(xs).all():
        raise UserError(f"{where}: xs that are not numbers")
    return xs, ys


def read_csv(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise UserError(f"{path}: not a CSV file ({error})") from None
    missing = [name for name in COLUMNS if name not in frame and name != "method"]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}")
    if "method" not in frame:
        frame["method"] = "dreamer"
    for name in ("env_steps", "episode_return"):
        numbers = pd.to_numeric(frame[name], errors="coerce")
        words = numbers.isna() & frame[name].notna()
        if words.any() or (name == "env_steps" and numbers.isna().any()):
            raise UserError(f"{path}: {name} holds something that is not a number")
        frame[name] = numbers.astype(float)
    frame["seed"] = frame["seed"].astype(str)
    return frame[list(COLUMNS)]


def released_entries(frame: pd.DataFrame, runs: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    """Our runs in the released format, not binned. NaN becomes null."""
    chosen = frame[(frame["metric"] == metric).to_numpy()]
    by_run = {str(run_id): group for run_id, group in chosen.groupby("run_id", observed=True)}
    entries = []
    for run in runs.itertuples():
        if run.run_id not in by_run:
            continue
        group = by_run[run.run_id]
        ys = [float(y) if np.isfinite(y) else None for y in group["value"]]
        entries.append(
            {
                "task": f"dmc_{run.task}",
                "method": run.method,
                "seed": str(run.seed),
                "xs": [int(x) for x in group["env_steps"]],
                "ys": ys,
                **({"synthetic": True} if run.synthetic else {}),
            }
        )
    return entries


def write_released(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(list(entries)))
