"""How long recording, auditing, loading and the commands take.

    python -m suites.benchmark audit [RUNS]      audit 1,000 recorded runs
    python -m suites.benchmark load [RUNS]       load 5,000 runs of 2,000 points, cold and warm
    python -m suites.benchmark training [STEPS]  the share of a run's time that its records take
    python -m suites.benchmark commands [RUNS]   the status of 10,000 runs; expand ten times as many
    python -m suites.benchmark replay [FRAMES [RESULTS ...]]
                                                 how small pictures of 21 tasks, and of trained
                                                 runs, become, and how fast

The first three print seconds of CPU (user and system) and of wall clock, the others CSV: `commands`
medians of five new processes after one that warms up the disk's cache, `replay` the best of three
(batches: of 20). Synthetic records go to a temporary folder. Files just written are read from
memory; checkpoints are small here (0.1 MB), and each GB of them takes about a second more.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import itertools
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import zstandard

from dreamer import run_folder
from dreamer.config import IMAGE_SHAPE, make_config
from dreamer.packing import BLOCK_STEPS, LEVEL, pack
from dreamer.replay_files import IMAGE_BYTES, IMAGES, ReplayFiles
from suites import audit
from suites.language.axes import TASK_SETS
from suites.language.suite import Run, expand
from suites.record import provenance
from suites.record.metrics import read_metrics, values_of

SUITE = """
about: recorded runs
preset: published
env_steps: 2e6
seeds: {seeds}
grid: {{task: walker_walk}}
"""
PREDICTED = 50  # frames
LOSSES = [f"loss_{i}" for i in range(20)]  # about as many as an update logs


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    def cpu_s() -> float:
        parts = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(part.ru_utime + part.ru_stime for part in parts)

    wall, cpu = time.perf_counter(), cpu_s()
    yield
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{what}: {cpu:.1f} s of CPU, {wall:.1f} s, at most {memory:.1f} GB", flush=True)


@functools.cache
def lines(env_steps: int, every: int) -> list[dict]:
    """metrics.jsonl of a whole run: an episode each 1,000 env_steps, a record each 100 updates, an
    evaluation each `every` env_steps."""
    found, updates = [], 0
    for step in range(1000, env_steps + 1, 1000):
        counts = {"env_steps": step, "agent_steps": step // 2, "updates": updates}
        value = step**0.4
        found.append({"kind": "episode", **counts, "episode_return": value, "random": False})
        updates += 100
        counts["updates"] = updates
        found.append({"kind": "update", **counts, **dict.fromkeys(LOSSES, value / 3)})
        if step % every == 0:
            found.append({"kind": "evaluate", **counts, "evaluate_return": value})
    return found


@functools.cache
def text_of(env_steps: int, every: int) -> str:
    return "".join(json.dumps(record) + "\n" for record in lines(env_steps, every)[1:])


def write_metrics(folder: Path, config: dict) -> None:
    """Runs differ in their first episode."""
    size = config["env_steps"], config["eval_every_env_steps"]
    first = {**lines(*size)[0], "episode_return": float(config["seed"])}
    (folder / run_folder.METRICS).write_text(json.dumps(first) + "\n" + text_of(*size))


def write_run(results: Path, run: Run, file_bytes: int = 100_000) -> None:
    """A run as training leaves it, with a checkpoint of so many bytes."""
    folder = run_folder.run_path(results, run.run_id)
    attempt = run_folder.attempt_path(folder, 1)
    sacred = run_folder.sacred_run_path(results, run.run_id, 1)
    for path in (attempt, folder / run_folder.CHECKPOINTS, sacred):
        path.mkdir(parents=True)
    write_metrics(folder, run.config)
    run_folder.write_json(folder / run_folder.CONFIG, run.config)
    (folder / run_folder.CURVES).write_text("metric,env_steps,value\n")
    noise = np.random.default_rng(run.config["seed"]).integers(0, 256, 3 * file_bytes, np.uint8)
    frames = np.resize(noise, (PREDICTED, *IMAGE_SHAPE))
    np.savez_compressed(folder / run_folder.PREDICTION, truth=frames, model=frames,
                        context=5, env_steps=run.config["env_steps"])  # fmt: skip
    checkpoint = folder / run_folder.CHECKPOINTS / run_folder.checkpoint_name(1, 1)
    checkpoint.write_bytes(os.urandom(file_bytes))
    run_folder.checksum_path(checkpoint).write_text(run_folder.sha256(checkpoint))
    (folder / run_folder.REPLAY).mkdir()
    run_folder.discard_replay(folder, "the run was done")
    kept = [folder / name for name in run_folder.ARTIFACTS if (folder / name).exists()]
    origin = {
        "code": "0123456789ab", "renderer": "egl", "packages": provenance.packages(),
        "from_values": {}, "artifacts": {file.name: run_folder.sha256(file) for file in kept},
        "config": run.config,
    }  # fmt: skip
    run_folder.write_json(attempt / run_folder.PROVENANCE, origin)
    status = {
        "run_id": run.run_id, "status": "COMPLETED", "attempt": 1, "suites": ["suite"],
        "env_steps": run.config["env_steps"], "final_score": 100.0, "final_evaluations": 2,
    }  # fmt: skip
    run_folder.write_json(folder / run_folder.STATUS, status)
    for file in kept:
        os.link(file, sacred / f"run_{file.name}")
    run_folder.write_json(sacred / "run.json", {"status": "COMPLETED"})
    other = next((results / "sacred").glob("*/metrics.json"), None)
    if other is not None:
        os.link(other, sacred / "metrics.json")
        return
    values = values_of(read_metrics(folder / run_folder.METRICS)[0])
    metrics = {
        name: {
            "steps": [step for step, _ in points],
            "values": [value for _, value in points],
            "timestamps": ["2026-01-01T00:00:00.000000"] * len(points),
        }
        for name, points in values.items()
    }
    run_folder.write_json(sacred / "metrics.json", metrics, indent=None)


def measure_audit(folder: Path, runs: int) -> None:
    path = folder / "suite.yaml"
    path.write_text(SUITE.format(seeds=runs))
    for run in expand(path).runs:
        write_run(folder / "results", run)
    with timed(f"audit of {runs} runs"):
        assert audit.main([str(path), "--results", str(folder / "results")]) == 0


def measure_load(folder: Path, runs: int) -> None:
    """Evaluations and episodes of 1,000 env_steps each: 2,000 points a run."""
    from analysis.read.files import FileSource
    from analysis.read.frame import load

    path = folder / "suite.yaml"
    path.write_text(SUITE.format(seeds=runs).replace("2e6", "1e6") + "eval_every_env_steps: 1000\n")
    results = folder / "results"
    for run in expand(path).runs:
        path = run_folder.run_path(results, run.run_id)
        path.mkdir(parents=True)
        run_folder.write_json(path / run_folder.CONFIG, run.config)
        write_metrics(path, run.config)
    for words in ("cold", "warm"):
        with timed(f"{words} load of {runs} runs"):
            frame = load(FileSource(results), cache=folder / "cache").frame
        assert len(frame) == 2000 * runs


SERVERS = ("none", "up", "refuses", "hangs")


def measure_training(folder: Path, env_steps: int) -> None:
    """A toy's run beside each kind of server; its updates are quick, so the share of records is
    larger than in real runs."""
    for kind in SERVERS:
        words = [sys.executable, __file__, "attempt", str(env_steps)]
        with _server(folder, kind) as url:
            environment = {**os.environ, "DREAMER_MONGO_URL": url, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE)
        print(f"server {kind}: {done.stdout.decode().splitlines()[-1]}", flush=True)


@contextlib.contextmanager
def _server(folder: Path, kind: str) -> Iterator[str]:
    """A URL at which nobody listens, somebody who never answers, or nx-27017."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        url = f"mongodb://127.0.0.1:{port}/lab"
        if kind == "hangs":
            listener.listen(100)
        if kind != "up":
            yield "" if kind == "none" else url
            return
    words = [str(Path(sys.executable).with_name("nx-27017")), "--host", "127.0.0.1"]
    words += ["--port", str(port), "--db", str(folder / "records.db")]
    words += ["--pid-file", str(folder / "pid"), "--log-file", str(folder / "log")]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        time.sleep(20)
        yield url
    finally:
        process.kill()


def measure_attempt(folder: Path, env_steps: int) -> None:
    """One attempt in this process, and its CPU time: of all threads, of the one that calls the
    observers (Sacred's heartbeat), and of those that send to MongoDB.
    """
    from sacred.run import Run as SacredRun

    from suites.execution.attempt import execute
    from suites.execution.spec import Spec

    spent = {"log": 0.0, "told": 0.0}

    def counted(owner: type, method: str, name: str) -> None:
        inner = getattr(owner, method)

        def outer(*arguments: object, **named: object) -> object:
            start = time.thread_time()
            try:
                return inner(*arguments, **named)
            finally:
                spent[name] += time.thread_time() - start

        setattr(owner, method, outer)

    counted(SacredRun, "log_scalar", "log")
    counted(SacredRun, "_emit_heartbeat", "told")
    path = folder / "suite.yaml"
    settings = f"preset: tiny\nenv_steps: {env_steps}\nseeds: 1\nlog_every_updates: 10\n"
    path.write_text(f"about: a toy\n{settings}grid: {{task: toy_dot}}\n")
    [run] = expand(path).runs
    start = time.process_time()
    execute(Spec(run.run_id, run.config, ["suite"], str(folder / "results")))
    total = time.process_time() - start
    threads = {thread.native_id for thread in threading.enumerate() if thread.daemon}
    delivered = sum(map(_cpu_s, threads))
    share = 100 * (sum(spent.values()) + delivered) / total
    parts = f"{spent['log']:.2f} s log, {spent['told']:.2f} s tell, {delivered:.2f} s deliver"
    print(f"{total:.1f} s of CPU: {parts}; together {share:.2f} %", flush=True)
    shutil.rmtree(folder)
    os._exit(0)  # threads that wait for a server are left alone


def _cpu_s(thread: int | None) -> float:
    fields = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


MANY = """about: {runs} runs
preset: submission
seeds: {seeds}
grid:
  task: control_suite
  horizon: [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
  discount: [0.9, 0.92, 0.95, 0.97, 0.99]
"""
REPEATS = 5


def measure_commands(folder: Path, runs: int) -> None:
    """Half of the runs are done, the others running, stopped, failed or missing."""
    many, more = folder / "many.yaml", folder / "more.yaml"
    many.write_text(MANY.format(runs=runs, seeds=max(1, runs // 1000)))
    more.write_text(MANY.format(runs=10 * runs, seeds=max(1, runs // 100)))
    write_states(folder / "results", many)
    status = ("-m", "suites.status", many, "--results", folder / "results")
    expanding = "import sys; from suites.language.suite import expand; expand(sys.argv[1])"
    print("what,wall_s,user_s,system_s")
    print(medians(f"expand and validate {10 * runs} runs", "-c", expanding, more))
    print(medians(f"suites.status of {runs} runs", *status))
    print(medians(f"suites.status of {runs} runs --format json", *status, "--format", "json"))


def write_states(results: Path, suite: Path) -> None:
    """A status.json for each run, as an attempt on another machine would have left it."""
    states = ["COMPLETED"] * 5 + ["RUNNING"] * 2 + ["INTERRUPTED", "FAILED", None]
    for number, run in enumerate(expand(suite).runs):
        state = states[number % len(states)]
        if state is None:
            continue
        folder = run_folder.run_path(results, run.run_id)
        folder.mkdir(parents=True)
        run_folder.write_json(folder / run_folder.STATUS, {
            "run_id": run.run_id, "status": state, "attempt": 1, "budget_env_steps": 2_000_000,
            "env_steps": 1_000_000, "updates": 100_000, "episode_return": 512.3,
            "evaluate_return": 520.1, "env_steps_per_second": 31.4, "seconds_left": 31_000,
            "started": run_folder.now(), "heartbeat": run_folder.now(), "host": "node17",
            "pid": 4711,
            "executor": f"slurm 1234_{number}", "device": "gpu", "suites": ["many"],
            "code": "0123456789ab", "error": "ValueError: no" if state == "FAILED" else None,
        })  # fmt: skip


def medians(what: str, *words: object) -> str:
    """A line of CSV: wall, user and system seconds of the command, medians."""
    seen = [spent(*words)[:3] for _ in range(REPEATS + 1)]
    middle = map(statistics.median, zip(*seen[1:], strict=True))
    return ",".join([what, *(f"{seconds:.2f}" for seconds in middle)])


# Starts a process from a small one: a peak of memory counts that of the process before `exec`.
LAUNCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.PIPE)
wall_s = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
said = done.stdout.decode()[-200:]
print(json.dumps([wall_s, used.ru_utime, used.ru_stime, used.ru_maxrss / 1e3, said]))
sys.exit(done.returncode not in (0, 1))
"""


def spent(*words: object) -> tuple[float, float, float, float, str]:
    """Wall, user and system seconds and peak memory in MB of `python WORDS`, which ends with exit
    code 0 or 1; and the end of what it prints."""
    command = [sys.executable, "-c", LAUNCH, *map(str, words)]
    done = subprocess.run(command, cwd=provenance.ROOT, check=True, stdout=subprocess.PIPE)
    return tuple(json.loads(done.stdout))


def measure_replay(folder: Path, frames: int, *results: str) -> None:
    """Pictures of each task, packed in blocks of several lengths by several methods; then a batch
    of 50 windows of 50 steps, as the replay packs them. `results`: folders of trained runs."""
    table = csv.writer(sys.stdout)
    table.writerow(COLUMNS)
    for task in ("toy_dot", *TASK_SETS["control_suite"]):
        for behaviour in ACTIONS:
            image = _pictures(task, frames, behaviour)
            rows = [*packings(image)] if behaviour == "random" else []
            rows.append((*CHOSEN, *_replayed(folder / f"{task}-{behaviour}", image)))
            table.writerows([task, behaviour, *row] for row in rows)
            sys.stdout.flush()
    for run in sorted(run for one in results for run in run_folder.runs_path(Path(one)).iterdir()):
        if (run / run_folder.REPLAY).is_dir():
            table.writerow(_trained(run))


def _replayed(folder: Path, image: np.ndarray) -> tuple[str, ...]:
    """Ratio, two empty fields, and the CPU time of a batch from a replay of 20 such episodes."""
    from dreamer.replay import Episode, Replay

    replay = Replay(folder, 1, 50)
    actions = np.zeros((len(image), 1), np.float32)
    for _ in range(20):
        replay.append(Episode(image, actions, actions[:, 0], actions[:, 0]))
    sample = functools.partial(replay.sample, np.random.default_rng(0), 50)
    batch_s = _best_s(sample, time.process_time, 20)
    ratio = len(image) * IMAGE_BYTES * 20 / (folder / IMAGES).stat().st_size
    replay.close()
    return f"{ratio:.2f}", "", "", f"{1e3 * batch_s:.1f}"


def _trained(run: Path) -> list[object]:
    """The last TRAINED_EPISODES of a run, packed in the chosen way, with their mean return."""
    config = run_folder.read_json(run / run_folder.CONFIG) or {}
    files = ReplayFiles(run / run_folder.REPLAY)
    images = []
    for number in range(len(files.entries))[-TRAINED_EPISODES:]:
        images.append(np.empty((files.entries[number].steps, *IMAGE_SHAPE), np.uint8))
        files.read_images(number, 0, images[-1])
    files.close()
    records, _ = read_metrics(run / run_folder.METRICS)
    returns = [r["episode_return"] for r in records if r["kind"] == "episode"]
    ratio = sum(image.nbytes for image in images) / sum(len(b) for i in images for b in pack(i))
    behaviour = f"trained (return {np.mean(returns[-TRAINED_EPISODES:]):.0f})"
    return [config["task"], behaviour, *CHOSEN, f"{ratio:.2f}", "", "", ""]


def _random(generator: np.random.Generator, size: int, step: int) -> np.ndarray:
    return generator.uniform(-1, 1, size)


def _smooth(generator: np.random.Generator, size: int, step: int) -> np.ndarray:
    """Sinusoids of a period of 25 steps: bodies swing and walk as no random action moves them."""
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, size)
    return np.sin(2 * np.pi * step / 25 + phases)


ACTIONS = {"random": _random, "smooth": _smooth}
CHOSEN = ("LZ4", LEVEL, BLOCK_STEPS, "chosen")
COLUMNS = (
    *("task", "behaviour", "packer", "level", "block_steps", "dictionary"),
    *("ratio", "pack_gb_per_s", "unpack_gb_per_s", "batch_ms"),
)
TRAINED_EPISODES = 10


def _pictures(task: str, frames: int, behaviour: str) -> np.ndarray:
    """The first `frames` pictures of episodes of random or smooth actions."""
    from dreamer.envs.environment import make_environment

    env = make_environment(make_config("published", {"task": task, "time_limit_env_steps": 1000}))
    generator, step = np.random.default_rng(0), None
    images: list[np.ndarray] = []
    while len(images) < frames:
        if step is None or step.terminal or step.truncated:
            step = env.reset(len(images))
        else:
            action = ACTIONS[behaviour](generator, env.action_space.size, len(images))
            step = env.step(action.astype(np.float32))
        images.append(step.image)
    env.close()
    return np.stack(images)


def packings(image: np.ndarray) -> Iterator[tuple[object, ...]]:
    """Packer, level, block length, dictionary, ratio, GB/s packed and unpacked."""
    first = image[0].tobytes()
    ways = itertools.product(PACKERS.items(), (10, 50), ("none", "first picture"))
    for ((packer, level), (packing, unpacking)), steps, dictionary in ways:
        known = first if dictionary == "first picture" else b""
        blocks = [image[at : at + steps] for at in range(1, len(image), steps)]
        datas = [block.data.cast("B") for block in blocks]
        packed = [packing(data, known) for data in datas]
        sizes = [data.nbytes for data in datas]

        def pack_all(f: Any = packing, datas: list = datas, known: bytes = known) -> None:
            for data in datas:
                f(data, known)

        def unpack_all(
            f: Any = unpacking, packed: list = packed, sizes: list = sizes, known: bytes = known
        ) -> None:
            for data, size in zip(packed, sizes, strict=True):
                f(data, size, known)

        runs = (pack_all, unpack_all)
        speeds = [image.nbytes / _best_s(run, time.thread_time, 3) / 1e9 for run in runs]
        ratio = sum(sizes) / sum(map(len, packed))
        yield packer, level, steps, dictionary, *(f"{value:.2f}" for value in (ratio, *speeds)), ""


def _lz4(level: int) -> tuple[Callable[..., bytes], Callable[..., bytes]]:
    def pack(data: memoryview, known: bytes) -> bytes:
        return lz4.block.compress(
            data, mode="high_compression", compression=level, store_size=False, dict=known
        )

    def unpack(packed: bytes, size: int, known: bytes) -> bytes:
        return lz4.block.decompress(packed, uncompressed_size=size, dict=known)

    return pack, unpack


def _zstandard(level: int) -> tuple[Callable[..., bytes], Callable[..., bytes]]:
    @functools.lru_cache
    def tools(known: bytes) -> tuple[Any, Any]:
        words = zstandard.ZstdCompressionDict(known, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        dictionary = words if known else None
        packer = zstandard.ZstdCompressor(level, dict_data=dictionary, write_checksum=True)
        return packer, zstandard.ZstdDecompressor(dictionary)

    def pack(data: memoryview, known: bytes) -> bytes:
        return tools(known)[0].compress(data)

    def unpack(packed: bytes, size: int, known: bytes) -> bytes:
        return tools(known)[1].decompress(packed)

    return pack, unpack


PACKERS = {
    **{("LZ4", level): _lz4(level) for level in (4, 6, 9)},
    **{("zstandard", level): _zstandard(level) for level in (3, 6)},
}


def _best_s(run: Callable[[], object], clock: Callable[[], float], times: int) -> float:
    spent = []
    for _ in range(times):
        start = clock()
        run()
        spent.append(clock() - start)
    return min(spent)


MEASURES: dict[str, tuple[Callable[..., None], int]] = {
    "replay": (measure_replay, 501),
    "audit": (measure_audit, 1000),
    "load": (measure_load, 5000),
    "training": (measure_training, 20_000),
    "commands": (measure_commands, 10_000),
    "attempt": (measure_attempt, 20_000),
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in MEASURES:
        sys.exit(__doc__)
    measure, size = MEASURES[sys.argv[1]]
    asked, *rest = sys.argv[2:] or [str(size)]
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), int(asked), *rest)


if __name__ == "__main__":
    main()
