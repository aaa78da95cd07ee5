"""Published numbers: facts from papers, shipped in results/published/ with their caveats."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"

# The 20 tasks of the paper; `cup_catch` is dm_control's ball_in_cup / catch.
CONTROL_TASKS = (
    "acrobot_swingup", "cartpole_balance", "cartpole_balance_sparse", "cartpole_swingup",
    "cartpole_swingup_sparse", "cheetah_run", "cup_catch", "finger_spin", "finger_turn_easy",
    "finger_turn_hard", "hopper_hop", "hopper_stand", "pendulum_swingup", "quadruped_run",
    "quadruped_walk", "reacher_easy", "reacher_hard", "walker_run", "walker_stand", "walker_walk",
)  # fmt: skip
MAX_CONTROL_SCORE = 1000.0
# D4PG and A3C have no published scores for quadruped: their averages are over the other 18.
TASKS_18 = tuple(task for task in CONTROL_TASKS if not task.startswith("quadruped"))

CAVEATS = {
    "d4pg": "D4PG: published, 1e8 env. steps, pixels, 18 tasks (no quadruped)",
    "a3c": "A3C: published, 1e8 env. steps, from states, 18 tasks (no quadruped)",
    "slac": "SLAC: published, 3e6 env. steps, pixels, 4 tasks",
    "planet": "PlaNet: published, 1e6 env. steps, action repeat chosen per task, 6 tasks",
    "dreamer": "Dreamer: released score file, an earlier setting than the paper's",
}


def published_scores(path: Path = PUBLISHED / "scores.csv") -> pd.DataFrame:
    """`method, task, env_steps, inputs, score_mean, score_sd, seeds, source`."""
    return pd.read_csv(path)


def baselines(methods: tuple[str, ...] = ("d4pg", "a3c", "slac")) -> pd.DataFrame:
    """One row per method and task, the rows with the most env_steps: what figures draw as lines."""
    scores = published_scores()
    scores = scores[scores["method"].isin(methods)].sort_values("env_steps", kind="stable")
    return scores.groupby(["method", "task"], as_index=False, sort=False).tail(1)


def normalised(score: pd.Series, task: pd.Series) -> pd.Series:
    """score / 1000 on the control suite; NaN elsewhere, where no common scale exists."""
    return (score / MAX_CONTROL_SCORE).where(task.isin(CONTROL_TASKS))
