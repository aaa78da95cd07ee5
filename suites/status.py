"""Show the state of a suite's runs: done, running, failed, dead or missing.

    python -m suites.status suites/quickstart.yaml [--watch] [--format json]

Reads each run's status.json and asks the executors, so it works from any machine that shares the
results folder. Exit code 0: all runs are done; 1: some are not; 2: bad input.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamer import run_folder
from dreamer.run_folder import State
from suites import command
from suites.command import aligned, as_text, setting_text, varying
from suites.execution.executors import states
from suites.language.identity import overrides_of
from suites.language.suite import Run
from suites.record.scores import recorded_score

WATCH_EVERY_S = 5.0
MUCH_TOO_SHORT = 0.1  # share of a run's episodes, from which it is shown
MAX_PROBLEMS = 20  # shown; the JSON has all


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if all runs are done, 1 if not, 2 for bad input."""
    return command.main(parse, lambda o: watch(o) if o.watch else show(o), arguments)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command.parser("status", __doc__.splitlines()[0])
    parser.add_argument(
        "--watch",
        action="store_true",
        help="repeat until all runs are done",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser.parse_args(arguments)


def show(options: argparse.Namespace) -> int:
    _, runs = command.chosen(options)
    rows = collect(options.results, runs)
    print(json.dumps(rows, indent=2) if options.format == "json" else text(rows, options.results))
    return 0 if all(row["state"] == State.DONE for row in rows) else 1


def watch(options: argparse.Namespace) -> int:
    """Shows the states until all runs are done or Ctrl-C is pressed."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            if sys.stdout.isatty():
                print("\x1b[H\x1b[J", end="")
            if show(options) == 0:
                break
            sys.stdout.flush()
            time.sleep(WATCH_EVERY_S)
    return 0


def collect(results: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each run: its settings in short, its state, and the values of its status.json."""
    rows = []
    statuses = states(results, {run.run_id: run.config for run in runs})
    keys = ("status", "attempt", "env_steps", "updates", "episode_return", "evaluate_return",
            "final_score", "final_evaluations", "short_episodes", "env_steps_per_second",
            "seconds_left", "started", "heartbeat", "host", "executor", "code", "error", "slurm",
            "unsure")  # fmt: skip
    varies = [key for key in varying([run.config for run in runs]) if key != "task"]
    for run in runs:
        state, status = statuses[run.run_id]
        c = run.config
        rows.append({
            "run_id": run.run_id,
            "task": c["task"],
            "method": method(c),
            "settings": {key: c[key] for key in varies},  # that tell the runs apart
            "seed": c["seed"],
            "budget_env_steps": c["env_steps"],
            "state": state,
            **{key: (status or {}).get(key) for key in keys},
        })  # fmt: skip
        if state == State.DONE and "final_score" not in (status or {}):  # of an earlier version
            path = run_folder.run_path(results, run.run_id) / run_folder.METRICS
            score, evaluations, _ = recorded_score(path, c) or (None, None, None)
            rows[-1] |= {"final_score": score, "final_evaluations": evaluations}
    return rows


def method(config: dict[str, Any]) -> str:
    """What distinguishes runs of one task: behaviour, representation, and what differs from the
    preset."""
    words = [config["behaviour"]]
    if config["representation"] != "reconstruction":
        words.append(config["representation"])
    words.append(config["preset"])
    shown = {"behaviour", "representation", "env_steps"}
    rest = {k: v for k, v in overrides_of(config).items() if k not in shown}
    return " ".join([*words, *(f"{key}={as_text(value)}" for key, value in rest.items())])


def text(rows: Sequence[dict[str, Any]], results: Path) -> str:
    """A table of tasks and methods with their runs by state; then running runs and problems."""
    lines = _matrix(rows)
    running = [row for row in rows if row["state"] == State.RUNNING]
    if running:
        lines += ["", "running"]
        lines += [f"  {row['run_id']}  {_progress(row)}" for row in running]
    wrong = [r for r in rows if r["state"] in (State.FAILED, State.DEAD, State.UNKNOWN)]
    if wrong:
        lines += ["", "problems"]
        lines += [f"  {_problem(row, results)}" for row in wrong[:MAX_PROBLEMS]]
        if len(wrong) > MAX_PROBLEMS:
            lines.append(f"  ... and {len(wrong) - MAX_PROBLEMS} more; --format json has all")
    short = [row for row in rows if (row["short_episodes"] or 0) > MUCH_TOO_SHORT]
    if short:
        lines += ["", "episodes too short to be sampled (see `length`), so never trained on"]
        lines += [f"  {row['run_id']}: {row['short_episodes']:.0%}" for row in short[:MAX_PROBLEMS]]
    codes = sorted({row["code"] for row in rows if row["code"]})
    if len(codes) > 1:
        lines += ["", f"computed with {len(codes)} versions of the code: {', '.join(codes)}"]
    return "\n".join([*lines, "", _counts(rows)])


def _counts(rows: Sequence[dict[str, Any]]) -> str:
    found = Counter(row["state"] for row in rows)
    loud = (State.FAILED, State.DEAD)
    return ", ".join(f"{found[s]} {s.upper() if s in loud else s}" for s in State if found[s])


def _matrix(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each task and the settings that tell it from others."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        settings = " ".join(setting_text(key, value) for key, value in row["settings"].items())
        cells.setdefault((row["task"], settings), []).append(row)
    table: list[tuple[str, ...]] = [("task", "settings", "runs", "final score")]
    for (task, name), members in cells.items():
        done = [m for m in members if m["final_score"] is not None]
        score = f"{sum(m['final_score'] for m in done) / len(done):.1f}" if done else ""
        counts = " or ".join(map(str, sorted({m["final_evaluations"] for m in done})))
        each = f" (mean of {counts} evaluation{'s' if counts != '1' else ''})" if done else ""
        table.append((task, name, _counts(members), score + each))
    if not any(row["settings"] for row in rows):
        table = [(task, *rest) for task, _, *rest in table]
    return aligned(table)


def _progress(row: dict[str, Any]) -> str:
    parts = [f"{row['env_steps'] or 0:,}/{row['budget_env_steps']:,} env_steps"]
    if row["evaluate_return"] is not None:
        parts.append(f"last evaluation {row['evaluate_return']:.1f}")
    if row["env_steps_per_second"]:
        parts.append(f"{row['env_steps_per_second']:.3g}/s")
    if row["seconds_left"] is not None:
        parts.append(f"{datetime.timedelta(seconds=int(row['seconds_left']))} left")
    return ", ".join([*parts, f"on {row['host']}"])


def _problem(row: dict[str, Any], results: Path) -> str:
    """What is wrong with a run and where to look."""
    folder = run_folder.run_path(results, row["run_id"])
    if row["state"] == State.UNKNOWN and row["unsure"]:
        return f"{row['run_id']}: {row['unsure']}"
    if row["state"] == State.UNKNOWN:
        path = folder / run_folder.STATUS
        return f"{row['run_id']}: {path} cannot be read; the next run continues it"
    if row["state"] == State.FAILED:
        see = run_folder.see(folder, row["attempt"], run_folder.LOG)
        return f"{row['run_id']} failed: {row['error']}{see}"
    last = f"last heartbeat {row['heartbeat']} on {row['host']}"
    error = f", {row['error']}" if row["error"] else ""
    return f"{row['run_id']} is dead: {last}{error}; the next run continues it"


if __name__ == "__main__":
    sys.exit(main())
