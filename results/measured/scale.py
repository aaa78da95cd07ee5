"""How long the commands take for many runs: seconds of wall clock and of computing, as CSV.

    python results/measured/scale.py

Expands 100,000 runs, and tells the state of 10,000 whose records are written for the purpose (half
done, some running, failed and dead), each in a new process; everything is in a temporary folder.
The first call warms up the disk's cache and is not counted; of the next five the median is told.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from suites.language.suite import expand  # noqa: E402
from suites.record import folder as records  # noqa: E402

REPEATS = 5
SUITE = """about: {runs} runs
preset: submission
seeds: {seeds}
grid:
  task: control_suite
  horizon: [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
  discount: [0.9, 0.92, 0.95, 0.97, 0.99]
"""


def write_records(results: Path, suite: Path) -> None:
    """A status.json for each run, as an attempt on another machine would have left it."""
    states = ["COMPLETED"] * 5 + ["RUNNING"] * 2 + ["INTERRUPTED", "FAILED", None]
    for number, run in enumerate(expand(suite).runs):
        state = states[number % len(states)]
        if state is None:
            continue
        folder = records.run_folder(results, run.run_id)
        folder.mkdir(parents=True)
        records.write_json(folder / "status.json", {
            "run_id": run.run_id, "status": state, "attempt": 1, "budget_env_steps": 2_000_000,
            "env_steps": 1_000_000, "updates": 100_000, "episode_return": 512.3,
            "evaluate_return": 520.1, "env_steps_per_second": 31.4, "seconds_left": 31_000,
            "started": records.now(), "heartbeat": records.now(), "host": "node17", "pid": 4711,
            "executor": f"slurm 1234_{number}", "device": "gpu", "suites": ["many"],
            "code": "0123456789ab", "error": "ValueError: no" if state == "FAILED" else None,
        })  # fmt: skip


def measure(what: str, *words: str) -> str:
    """A line of CSV: wall, user and system seconds of the command, medians."""
    seen = []
    for _ in range(REPEATS + 1):
        wall, before = time.perf_counter(), os.times()
        done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
        assert done.returncode in (0, 1)
        after = os.times()
        user, system = (after[i] - before[i] for i in (2, 3))
        seen.append((time.perf_counter() - wall, user, system))
    medians = [sorted(column)[REPEATS // 2] for column in zip(*seen[1:], strict=True)]
    return ",".join([what, *(f"{seconds:.2f}" for seconds in medians)])


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        many, more = Path(name, "many.yaml"), Path(name, "more.yaml")
        many.write_text(SUITE.format(runs="10,000", seeds=10))
        more.write_text(SUITE.format(runs="100,000", seeds=100))
        write_records(Path(name, "results"), many)
        status = ("-m", "suites.status", str(many), "--results", f"{name}/results")
        expanding = "import sys; from suites.language.suite import expand; expand(sys.argv[1])"
        print("what,wall_s,user_s,system_s")
        print(measure("expand and validate 100000 runs", "-c", expanding, str(more)))
        print(measure("suites.status of 10000 runs", *status))
        print(measure("suites.status of 10000 runs --format json", *status, "--format", "json"))


if __name__ == "__main__":
    main()
