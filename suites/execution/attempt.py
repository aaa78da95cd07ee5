"""One attempt at one run: training inside a Sacred experiment, recorded so that it can be trusted.

    python -m suites.execution.attempt < spec.json        what the executors start

An attempt locks the run's folder, writes where its numbers come from, keeps `status.json` fresh
and ends as COMPLETED, INTERRUPTED (SIGTERM, SIGINT, its parent's death) or FAILED (traceback in
`attempts/<n>/error.txt`). The next attempt continues from the last checkpoint. Sacred's record
`<run_id>-<n>` and MongoDB are told, and cannot disturb.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from dreamer.config import Config, UserError, config_from_dict
from suites.language.suite import overrides_of
from suites.record import folder as records
from suites.record import provenance

HEARTBEAT_S = 5.0
SACRED_BEAT_S = 20.0  # each beat writes all metrics anew
RATE_OVER_S = 120.0  # at least; the rate shown is that of the attempt's later half
ORPHAN_STOPS_WITHIN_S = 120.0

EXIT_CODES = {"COMPLETED": 0, "FAILED": 1, "INTERRUPTED": 3}
EXIT_BAD_INPUT, EXIT_BUSY = 2, 4


@dataclasses.dataclass(frozen=True)
class Spec:
    """What an executor must know to execute a run; plain JSON, no credentials."""

    run_id: str
    config: dict[str, Any]
    suites: list[str]
    results: str  # the results folder
    executor: str = "debug"  # who executes it: "local", "slurm 123_4", ...
    observers: list[str] = dataclasses.field(default_factory=list)  # MongoDB URLs
    command: list[str] = dataclasses.field(default_factory=list)  # that the user gave

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Spec:
        return Spec(**json.loads(text))

    @property
    def folder(self) -> Path:
        return records.run_folder(Path(self.results), self.run_id)


def execute(
    spec: Spec,
    should_stop: Callable[[], bool] = lambda: False,
    on_status: Callable[[records.Status], None] = lambda status: None,
    own_log: bool = False,
) -> records.Status:
    """Executes the next attempt in this process and returns the status that it ended with.

    `should_stop` asks for an orderly stop, as do SIGTERM and SIGINT (when called in the main
    thread; a second SIGINT stops at once). `on_status` is told every status that is written.
    `own_log` sends this process' stdout and stderr to `attempts/<n>/log.txt` from now on. A run
    that is done is left alone. Whatever training raises becomes status FAILED. Raises BusyError
    if the run is being executed, and UserError if it cannot be started at all.
    """
    config = config_from_dict(spec.config)
    if spec.executor == "debug":  # a debugger sees every step of an update
        config = dataclasses.replace(config, cuda_graph="off")
    results = Path(spec.results)
    records.make_folder(spec.folder)
    with records.locked(spec.folder):
        before = records.read_status(spec.folder)
        if before and before.get("status") == "COMPLETED":
            return before
        _check_folder(spec.folder)
        attempt = records.new_attempt(results, spec.run_id)
        folder = spec.folder / "attempts" / str(attempt)
        if own_log:
            _redirect(folder / "log.txt")
        code = provenance.code()
        _close_earlier(results, spec.run_id, attempt)
        board = _Board(spec, config, attempt, code.version, before or {}, on_status)
        with board.beating(), _signals() as stopped:
            _attempt(spec, config, attempt, code, board, lambda: stopped() or should_stop())
        return board.status


def _attempt(spec: Spec, config: Config, attempt: int, code: provenance.Code, board: _Board,
             should_stop: Callable[[], bool]) -> None:  # fmt: skip
    """Trains and sets the final status, whatever happens."""
    folder = spec.folder / "attempts" / str(attempt)
    try:
        summary = _train(spec, config, attempt, code, board, should_stop)
    except KeyboardInterrupt:
        board.finish("INTERRUPTED")
    except BaseException as error:
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        board.finish("FAILED", error=" ".join(text.split()) or type(error).__name__)
        if not isinstance(error, UserError):
            traceback.print_exc()
        if not isinstance(error, Exception):  # SystemExit and the like are not ours to swallow
            raise
    else:
        progress = {"env_steps": summary.env_steps, "updates": summary.updates}
        board.finish(summary.status, **progress, evaluate_return=summary.evaluate_return)


def _train(spec: Spec, config: Config, attempt: int, code: provenance.Code, board: _Board,
           should_stop: Callable[[], bool]) -> Any:  # fmt: skip
    """Trains inside a Sacred run; returns train's summary, raises what it raises."""
    import torch
    from sacred.utils import SacredInterrupt

    from dreamer.envs import renderer_name
    from dreamer.train import Progress, train

    story = _Story(spec, attempt, code)
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    board.status["device"] = "gpu" if on_gpu else "cpu"
    experiment = _sacred_experiment(spec, code)
    summaries = []

    @experiment.main
    def main(_run: Any) -> float | None:
        story.also_to(_run.info)

        def log(record: dict[str, Any]) -> None:
            story.begin(logged=1)
            for name, [(env_steps, value)] in records.values_of([record]).items():
                _run.log_scalar(name, value, env_steps)

        def progress(now: Progress) -> None:
            story.begin(logged=0)
            board.progress(now)

        summary = train(config, spec.folder, log, should_stop, progress)
        # Only now are the machine (threads, GPU) and the renderer known for certain.
        story.tell(machine=provenance.machine(), renderer=renderer_name() or "none")
        summaries.append(summary)
        if summary.status != "COMPLETED":
            raise SacredInterrupt
        _write_results(spec.folder)
        kept = [spec.folder / name for name in records.ARTIFACTS if (spec.folder / name).exists()]
        story.tell(artifacts={file.name: records.sha256(file) for file in kept})
        _run.info["checkpoints"] = _checkpoints(spec.folder)
        for file in kept:
            # config.json is the name of one of Sacred's own files.
            _run.add_artifact(file, name=f"run_{file.name}")
        return summary.evaluate_return

    options = {"--id": f"{spec.run_id}-{attempt}", "--beat-interval": SACRED_BEAT_S}
    with contextlib.suppress(SacredInterrupt):  # status INTERRUPTED
        experiment.run(options=options)
    return summaries[0]


def _sacred_experiment(spec: Spec, code: provenance.Code) -> Any:
    """A Sacred experiment that tells files and MongoDB, its packages and commit being ours."""
    import sacred

    from suites.record import mongo_urls
    from suites.record import sinks as observers

    sacred.SETTINGS.CAPTURE_MODE = "no"  # the attempt's log.txt has it; capturing can hang
    sacred.SETTINGS.DISCOVER_SOURCES = "none"  # the code is known by its commit and diff
    sacred.SETTINGS.DISCOVER_DEPENDENCIES = "none"

    class Experiment(sacred.Experiment):
        def get_experiment_info(self) -> dict[str, Any]:
            versions = [f"{name}=={version}" for name, version in provenance.packages().items()]
            repository = {"url": None, "commit": code.commit, "dirty": code.dirty}
            return {
                **super().get_experiment_info(),
                "dependencies": versions,
                "repositories": [repository] if code.commit else [],
            }

    experiment = Experiment(
        "dreamer", interactive=True, save_git_info=False, base_dir=str(provenance.ROOT)
    )
    experiment.logger = _quiet_logger()
    experiment.observers = [observers.file_sink(Path(spec.results))]
    for url in mongo_urls.all_urls(spec.observers):
        experiment.observers.append(observers.mongo_sink(url))
    experiment.add_config(dict(spec.config))
    return experiment


class _Story:
    """Where an attempt's numbers come from: its provenance.json, and in Sacred's record."""

    def __init__(self, spec: Spec, attempt: int, code: provenance.Code):
        self._path = spec.folder / "attempts" / str(attempt) / "provenance.json"
        self._metrics = spec.folder / "metrics.jsonl"
        self._sacred: dict[str, Any] = {}
        self.values: dict[str, Any] = {
            "run_id": spec.run_id,
            "attempt": attempt,
            "suites": spec.suites,
            "from_env_steps": None,  # where it continued, and how many values of each metric the
            "from_values": None,  # record held then; null as long as nothing was done
            "started": records.now(),
            "executor": spec.executor,
            "command": [provenance.without_credentials(w) for w in spec.command or sys.argv],
            "code": code.version,
            "git": {**code._asdict(), "dirty": code.dirty},
            "preset": spec.config["preset"],
            "overrides": overrides_of(spec.config),
            "config": spec.config,
            "packages": provenance.packages(),
            "machine": provenance.machine(),
            "renderer": None,  # not chosen yet
        }
        self.tell()  # though training may fail before it begins

    def tell(self, **news: Any) -> None:
        self.values.update(news)
        records.write_json(self._path, self.values)
        self._sacred["provenance"] = records.origin(self.values)

    def also_to(self, info: dict[str, Any]) -> None:
        """From now on in this, the `info` of Sacred's record, as well."""
        self._sacred = info
        self.tell()

    def begin(self, logged: int) -> None:
        """At the first sign of life: what the run's record held before (`logged` are ours)."""
        if self.values["from_values"] is None:
            before, _ = records.read_metrics(self._metrics)
            before = before[: len(before) - logged]
            env_steps = before[-1]["env_steps"] if before else 0
            counts = {name: len(points) for name, points in records.values_of(before).items()}
            self.tell(from_env_steps=env_steps, from_values=counts)


def _write_results(folder: Path) -> None:
    """What figures draw of a finished run, `curves.csv`, and its last prediction as a video."""
    import numpy as np

    from dreamer.evaluate import PREDICTION_FPS, prediction_frames, write_video

    metrics, _ = records.read_metrics(folder / "metrics.jsonl")
    values = records.values_of(m for m in metrics if m["kind"] in ("evaluate", "episode"))
    rows = [
        f"{name},{env_steps},{value!r}\n"
        for name in ("evaluate_return", "episode_return")
        for env_steps, value in values.get(name, ())
    ]
    (folder / "curves.csv").write_text("metric,env_steps,value\n" + "".join(rows))
    if (folder / "prediction.npz").exists():
        try:
            with np.load(folder / "prediction.npz") as file:
                frames = prediction_frames(file["truth"], file["model"])
            write_video(folder / "prediction.mp4", frames, PREDICTION_FPS)
        except (OSError, RuntimeError) as error:  # no ffmpeg: the pictures are in prediction.npz
            print(f"prediction.mp4: not written: {error}", file=sys.stderr)


def _checkpoints(folder: Path) -> list[dict[str, str]]:
    """Checkpoints by path and checksum (which the core wrote beside them)."""
    found = []
    for path in sorted((folder / "checkpoints").glob("checkpoint-*.pt")):
        checksum = path.with_suffix(".pt.sha256")
        text = checksum.read_text().split() if checksum.exists() else []
        found.append({"path": str(path.relative_to(folder)), "sha256": text[0] if text else ""})
    return found


def _check_folder(folder: Path) -> None:
    """A run's folder that was damaged by hand is one clear error."""
    path = folder / "config.json"
    if not path.exists():
        return
    try:
        ok = isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        ok = False
    if not ok:
        raise UserError(f"{path}: damaged; restore it, or start this run anew with --fresh")


def _close_earlier(results: Path, run_id: str, attempt: int) -> None:
    """Earlier attempts that were killed still read RUNNING in Sacred's record; we hold the lock, so
    they are not."""
    for number in range(1, attempt):
        path = results / "sacred" / f"{run_id}-{number}" / "run.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["status"] == "RUNNING":
                stopped = {"status": "INTERRUPTED", "stop_time": record["heartbeat"]}
                records.write_json(path, {**record, **stopped})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no such record, or one that cannot be read: the audit says so


def _quiet_logger() -> Any:
    import logging

    logger = logging.getLogger("sacred")
    logger.setLevel(logging.WARNING)
    return logger


class _Board:
    """The run's status.json: one writer, a heartbeat at least every HEARTBEAT_S."""

    def __init__(
        self,
        spec: Spec,
        config: Config,
        attempt: int,
        code: str,
        before: records.Status,
        on_status: Callable[[records.Status], None],
    ):
        self._path = spec.folder / "status.json"
        self._on_status = on_status
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._first: Any = None  # train's first Progress and its last
        self._latest: Any = None
        self._clock_s, self._awake_s = time.monotonic(), 0.0  # last look; seconds without gaps
        self._seen: deque[tuple[float, int]] = deque()  # (time awake, env_steps)
        kept = ("env_steps", "updates", "episode_return", "evaluate_return")
        self.status: records.Status = {
            "run_id": spec.run_id,
            "status": "RUNNING",
            "attempt": attempt,
            "budget_env_steps": config.env_steps,
            **{key: before.get(key) for key in kept},
            "env_steps_per_second": None,
            "seconds_left": None,
            "started": records.now(),
            "heartbeat": records.now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "executor": spec.executor,
            "device": None,
            "suites": spec.suites,
            "code": code,
            "error": None,
        }

    def progress(self, progress: Any) -> None:
        """Called by train, often: only remembers."""
        self._first = self._first or progress
        self._latest = progress

    def beat(self) -> None:
        with self._lock:
            self._take_latest()
        self._write()

    def _take_latest(self) -> None:
        self._look_at_the_clock()
        latest = self._latest
        if latest is not None:
            self.status.update(
                env_steps=latest.env_steps,
                updates=latest.updates,
                updates_due=latest.updates_due,
                episode_return=latest.episode_return,
                evaluate_return=latest.evaluate_return,
            )
            self._estimate(latest.env_steps)

    def _estimate(self, env_steps: int) -> None:
        """Rate and time left, over the later half of the attempt: collecting and updating take
        turns, of minutes each in a slow run, and the first episodes come without updates."""
        self._seen.append((self._awake_s, env_steps))
        long_s = max(RATE_OVER_S, self._awake_s / 2)
        while len(self._seen) > 2 and self._awake_s - self._seen[1][0] >= long_s:
            self._seen.popleft()
        seconds, steps = self._awake_s - self._seen[0][0], env_steps - self._seen[0][1]
        if seconds > 0 and steps > 0:
            rate = steps / seconds
            left = max(0, self.status["budget_env_steps"] - env_steps) / rate
            self.status.update(env_steps_per_second=round(rate, 2), seconds_left=round(left))

    def _look_at_the_clock(self) -> None:
        """A gap in the heartbeats (SIGSTOP, a laptop asleep) is no time."""
        before, self._clock_s = self._clock_s, time.monotonic()
        if self._clock_s - before <= 6 * HEARTBEAT_S:
            self._awake_s += self._clock_s - before

    def finish(self, status: str, **values: Any) -> None:
        """The last word; no heartbeat follows. The rate is now that of the whole attempt."""
        self._ended.set()
        with self._lock:
            self._take_latest()
            if self._latest is not None and self._awake_s > 0:
                steps = self._latest.env_steps - self._first.env_steps
                self.status["env_steps_per_second"] = round(steps / self._awake_s, 2)
            self.status.update(status=status, ended=records.now(), seconds_left=None, **values)
        self._write(last=True)

    def _write(self, last: bool = False) -> None:
        with self._lock:
            if self._ended.is_set() and not last:
                return
            self.status["heartbeat"] = records.now()
            copy = dict(self.status)
            try:
                records.write_json(self._path, copy)
            except OSError as error:  # a full disk stops training elsewhere, not here
                print(f"status.json: {error.strerror}", file=sys.stderr)
        self._on_status(copy)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """A thread writes the status while the block runs."""
        self._write()

        def loop() -> None:
            while not self._ended.wait(HEARTBEAT_S):
                self.beat()

        thread = threading.Thread(target=loop, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGINT ask to stop while the block runs; a second SIGINT stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    old = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked.is_set
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _redirect(path: Path) -> None:
    """stdout and stderr of this process and its children go to `path` from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def main() -> int:
    """A worker: the spec is the first line of stdin; when stdin closes, the parent is gone."""
    orphaned = threading.Event()
    line = sys.stdin.readline()
    if not line:  # the parent was killed before it could say what to do
        return EXIT_CODES["INTERRUPTED"]
    spec = Spec.from_json(line)

    def watch() -> None:
        while sys.stdin.read(1):
            pass
        orphaned.set()
        time.sleep(ORPHAN_STOPS_WITHIN_S)
        os._exit(EXIT_CODES["INTERRUPTED"])

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
    try:
        status = execute(spec, should_stop=orphaned.is_set, own_log=True)
    except records.BusyError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BUSY
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return EXIT_CODES.get(status["status"], 1)


if __name__ == "__main__":
    sys.exit(main())
