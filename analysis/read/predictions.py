"""Open-loop predictions that runs have left: a held-out episode, and what the model made of it."""

from __future__ import annotations

import io
import zipfile
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.read.source import Source
from dreamer import run_folder

MOST = 100  # predictions of a suite; about 2 MB each in memory


class Prediction(NamedTuple):
    """A run's open-loop prediction of a held-out episode of T frames."""

    run_id: str
    task: str
    method: str
    seed: int
    truth: np.ndarray  # uint8 [T, 64, 64, 3]
    model: np.ndarray  # uint8 [T, 64, 64, 3]
    context: int  # frames that the model saw
    env_steps: int


def read_predictions(source: Source, runs: pd.DataFrame) -> tuple[list[Prediction], list[str]]:
    """One prediction per task and method, or where these are more than MOST, per task; of the first
    seed that has one. And what was damaged or left out.

    `runs`: run_id, task, method, seed.
    """
    found: dict[tuple[str, str], Prediction] = {}
    problems = []
    pairs = len(runs[["task", "method"]].drop_duplicates())
    if pairs > MOST:
        problems.append(f"of the predictions of {pairs:,} tasks and methods one per task is shown")
        runs = runs[runs["method"] == runs.groupby("task")["method"].transform("first")]
    for run in runs.sort_values("seed", kind="stable").itertuples():
        data = None if (run.task, run.method) in found else source.prediction(run.run_id)
        if data is None:
            continue
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                found[run.task, run.method] = Prediction(
                    run_id=run.run_id,
                    task=run.task,
                    method=run.method,
                    seed=int(run.seed),
                    truth=file["truth"],
                    model=file["model"],
                    context=int(file["context"]),
                    env_steps=int(file["env_steps"]),
                )
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            problems.append(f"{run.run_id}: {run_folder.PREDICTION} is damaged ({error})")
    return list(found.values()), problems
