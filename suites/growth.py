"""Time and memory of a run over its length, of commands over the number of runs, and of a run's
process by preset.

    python -m suites.growth runs [RUNS]       up to 10,000 runs; up to 10,000 episodes of a run
    python -m suites.growth memory [UPDATES]  at the start, and at the peak of 3 updates

Both print CSV. Synthetic records go to a temporary folder: 2.4 GB for 10,000 runs.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dreamer import run_folder
from dreamer.config import IMAGE_SHAPE, Config, config_dict, make_config
from dreamer.replay_files import EMPTY, IMAGES, INDEX, STEPS, Cursor, ReplayFiles
from suites.benchmark import spent, write_metrics, write_run
from suites.language.axes import TASK_SETS
from suites.language.suite import expand
from suites.record import provenance

GROWTH = """about: {runs} runs
preset: small
env_steps: 1e5
seeds: {seeds}
grid:
  task: [{tasks}]
  horizon: {horizons}
  discount: {discounts}
"""
EPISODES = (100, 1000, 10_000)
RESUMED_EPISODES = (50, 500, 5000)  # of 1,000 env_steps


def measure_growth(folder: Path, runs: int) -> None:
    """Time and peak memory over the length of a run, and over the number of runs, 10 to `runs`.
    `slope`: of CPU time, both in logarithms, from the size before; linear is 1."""
    table = csv.writer(sys.stdout)
    table.writerow(("what", "size", "wall_s", "cpu_s", "peak_mb", "slope"))
    before: dict[str, tuple[int, float]] = {}

    def measure(what: str, size: int, *words: object) -> None:
        wall_s, cpu_s, peak_mb = _spent(*words)
        row = [what, size, f"{wall_s:.2f}", f"{cpu_s:.2f}", f"{peak_mb:.0f}"]
        if what in before:
            size_before, cpu_before = before[what]
            row.append(f"{math.log(cpu_s / cpu_before) / math.log(size / size_before):.2f}")
        before[what] = size, cpu_s
        table.writerow(row)
        sys.stdout.flush()

    for size in EPISODES:
        write_replay(folder / "replay", size, 1)
        measure(
            "100 batches, by episodes", size, "-m", "suites.growth", "sample", folder / "replay"
        )
        shutil.rmtree(folder / "replay")
    for size in RESUMED_EPISODES:
        write_long_run(folder / "run", size)
        measure("resume, by episodes", size, "-m", "suites.growth", "resume", folder / "run")
        shutil.rmtree(folder / "run")
    for size in (10**n for n in range(1, 10) if 10**n <= runs):
        suite = write_many(folder, size)
        words = suite, "--results", folder / "results"
        measure("suites.status, by runs", size, "-m", "suites.status", *words)
        measure("suites.audit, by runs", size, "-m", "suites.audit", *words)
        measure("make_figures, by runs", size, "-m", "analysis.make_figures", *words)
        shutil.rmtree(folder / "results")


def _spent(*words: object) -> tuple[float, float, float]:
    """Wall and CPU seconds and peak memory in MB of a process, or of what it says it measured."""
    wall_s, user_s, system_s, peak_mb, text = spent(*words)
    if measured := re.fullmatch(r"wall_s=(\S+) cpu_s=(\S+)\n", text):
        return float(measured[1]), float(measured[2]), peak_mb
    return wall_s, user_s + system_s, peak_mb


def _say(start: tuple[float, float]) -> None:
    wall_s, cpu_s = time.perf_counter() - start[0], time.process_time() - start[1]
    print(f"wall_s={wall_s} cpu_s={cpu_s}")


def measure_sample(replay: str) -> None:
    from dreamer.replay import Replay

    lines = Path(replay, INDEX).read_text().splitlines()
    steps = sum(json.loads(line)["steps"] for line in lines)
    opened = Replay(Path(replay), 1, 50, Cursor(len(lines), steps))
    start = time.perf_counter(), time.process_time()
    for number in range(100):
        opened.sample(np.random.default_rng(number), 50)
    _say(start)


def measure_resume(run: str) -> None:
    """From the start of training to its first agent_step, at which it stops."""
    from dreamer.train import train

    start = time.perf_counter(), time.process_time()
    train(_long_config(), Path(run), should_stop=lambda: True)
    _say(start)


def _long_config() -> Config:
    return make_config("tiny", {"task": "toy_dot", "env_steps": 6_000_000})


def write_replay(folder: Path, episodes: int, action_size: int) -> None:
    """Copies of one episode: a square that moves before a background of noise."""
    generator = np.random.default_rng(0)
    image = np.tile(generator.integers(0, 256, IMAGE_SHAPE, np.uint8), (501, 1, 1, 1))
    for step, (row, column) in enumerate(generator.integers(0, 56, (501, 2))):
        image[step, row : row + 8, column : column + 8] = step % 256
    files = ReplayFiles(folder, action_size, EMPTY)
    files.append(image, np.zeros((501, action_size + 2), np.float32))
    files.close()
    line = json.loads((folder / INDEX).read_text())
    for name in (IMAGES, STEPS):
        data = (folder / name).read_bytes()
        with open(folder / name, "wb") as file:
            file.writelines(itertools.repeat(data, episodes))
    lines = (line | {"episode": number, "first": 501 * number} for number in range(episodes))
    (folder / INDEX).write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_long_run(folder: Path, episodes: int) -> None:
    """A run that stopped after so many episodes of 1,000 env_steps."""
    from dreamer.checkpoint import load_checkpoint, save_checkpoint
    from dreamer.train import train

    config = _long_config()
    train(config, folder, should_stop=lambda: True)  # before its first step
    env_steps = 1000 * episodes
    write_metrics(folder, {**config_dict(config), "env_steps": env_steps})
    shutil.rmtree(folder / run_folder.REPLAY)
    write_replay(folder / run_folder.REPLAY, episodes, 2)
    [path] = run_folder.checkpoint_paths(folder / run_folder.CHECKPOINTS)
    content = load_checkpoint(path)
    content["counters"] |= {
        "env_steps": env_steps, "agent_steps": env_steps // 2, "episodes": episodes,
        "seed_env_steps": 5000, "updates": 100 * episodes, "evaluations": episodes // 10,
        "evaluated_env_steps": env_steps, "saved_env_steps": env_steps,
    }  # fmt: skip
    content["replay"] = Cursor(episodes, 501 * episodes)._asdict()
    content["metrics_bytes"] = (folder / run_folder.METRICS).stat().st_size
    content["collector"] = None
    path.unlink()
    name = run_folder.checkpoint_name(env_steps, 100 * episodes)
    save_checkpoint(folder / run_folder.CHECKPOINTS, name, content)


def write_many(folder: Path, runs: int) -> Path:
    """A suite of so many runs of 1e5 env_steps, finished: up to 20 tasks, 5 seeds, 100 settings."""
    tasks = TASK_SETS["control_suite"][: max(10, min(20, runs // 5))]
    seeds = 5 if runs >= 100 else 1
    settings = runs // (len(tasks) * seeds)
    suite = folder / f"runs{runs}.yaml"
    horizons = list(range(10, 10 + min(10, settings)))
    discounts = [0.9 + n / 1000 for n in range(max(1, settings // 10))]
    suite.write_text(GROWTH.format(runs=runs, seeds=seeds, tasks=", ".join(tasks),
                                   horizons=horizons, discounts=discounts))  # fmt: skip
    expanded = expand(suite).runs
    assert len(expanded) == runs
    for run in expanded:
        write_run(folder / "results", run, file_bytes=10_000)
    return suite


OF_MEMORY = (
    *(("tiny", "dreamer", "toy_dot"), ("tiny", "planet", "toy_dot")),
    *(("small", "dreamer", "cartpole_balance"), ("small", "planet", "walker_walk")),
    *(("published", "dreamer", "walker_walk"), ("submission", "dreamer", "cartpole_balance")),
)


def measure_memory(folder: Path, updates: int) -> None:
    """Memory of a run's process on this CPU: before the first of so many updates, and at its peak,
    with an evaluation; and the size of a checkpoint."""
    version = provenance.code().version
    table = csv.writer(sys.stdout)
    columns = ("start_gb", "peak_gb", "checkpoint_mb", "source")
    table.writerow(("preset", "behaviour", "device", *columns))
    for number, (preset, behaviour, task) in enumerate(OF_MEMORY):
        run = folder / str(number)
        _, _, peak_mb = _spent(
            "-m", "suites.growth", "train", run, preset, behaviour, task, updates
        )
        start_gb = float((run / "start_gb").read_text())
        [*_, path] = run_folder.checkpoint_paths(run / run_folder.CHECKPOINTS)
        sizes = f"{start_gb:.2f}", f"{peak_mb / 1e3:.2f}", f"{path.stat().st_size / 1e6:.1f}"
        source = f"peak resident memory of training {task} at {version}, one thread, fp32"
        table.writerow((preset, behaviour, "cpu", *sizes, source))
        sys.stdout.flush()


def measure_training_memory(run: str, preset: str, behaviour: str, task: str, updates: str) -> None:
    """An episode of random actions, so many updates and an evaluation."""
    from dreamer.train import Progress, train

    few = {"env_steps": 1000, "eval_every_env_steps": 1000, "seed_episodes": 1, "device": "cpu"}
    few |= {"updates_per_1000_env_steps": int(updates), "eval_episodes": 1}

    def note(progress: Progress) -> None:
        if progress.updates == 0:
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            Path(run, "start_gb").write_text(str(used / 1e6))

    config = make_config(preset, {"task": task, "behaviour": behaviour, **few})
    train(config, Path(run), on_progress=note)


MEASURES: dict[str, tuple[Callable[[Path, int], None], int]] = {
    "runs": (measure_growth, 10_000),
    "memory": (measure_memory, 3),
}
# Processes that these start.
PARTS: dict[str, Callable[..., None]] = {
    "sample": measure_sample,
    "resume": measure_resume,
    "train": measure_training_memory,
}


def main() -> None:
    name, *rest = sys.argv[1:] or [""]
    if name in PARTS:
        PARTS[name](*rest)
        return
    if name not in MEASURES or len(rest) > 1:
        sys.exit(__doc__)
    measure, size = MEASURES[name]
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), int(rest[0]) if rest else size)


if __name__ == "__main__":
    main()
