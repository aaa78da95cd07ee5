"""Training inside a Sacred run: the one place where the training loop and Sacred meet."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sacred
import torch
from sacred.utils import SacredInterrupt

from dreamer import run_folder
from dreamer.config import Config
from dreamer.envs.rendering import renderer_name
from dreamer.errors import KilledError
from dreamer.prediction import PREDICTION_FPS, prediction_frames
from dreamer.run_folder import Status
from dreamer.train import Progress, Summary, train
from dreamer.video import write_video
from suites.execution.heartbeat import StatusFile
from suites.execution.spec import Spec
from suites.language.identity import overrides_of
from suites.record import mongo_urls, provenance, sinks
from suites.record.folder import BusyError
from suites.record.metrics import read_metrics, values_of
from suites.record.own_code import own_code
from suites.record.provenance import Provenance
from suites.record.secrets import hide_word

SACRED_BEAT_S = 20.0  # at each beat Sacred hands over the new metrics


def train_recorded(
    spec: Spec,
    config: Config,
    attempt: int,
    code: provenance.Code,
    status_file: StatusFile,
    should_stop: Callable[[], bool],
) -> Summary:
    """Trains inside a Sacred run. Returns what `train` returns and raises what it raises."""
    origin = Provenance(spec.folder, attempt, _provenance(spec, attempt, code))
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    status_file.status["device"] = "gpu" if on_gpu else "cpu"
    experiment = _experiment(spec, code)
    summaries: list[Summary] = []
    stopped: list[Exception] = []

    @experiment.main
    def main(_run: Any) -> float | None:
        origin.copy_to(_run.info)

        def log(record: dict[str, Any]) -> None:
            origin.begin(logged=1)
            for name, [(env_steps, value)] in values_of([record]).items():
                _run.log_scalar(name, value, env_steps)

        def progress(now: Progress) -> None:
            origin.begin(logged=0)
            status_file.progress(now)

        try:
            summary = train(config, spec.folder, log, should_stop, progress)
        except (BusyError, KilledError) as error:  # another process may continue it: no failure
            stopped.append(error)
            raise SacredInterrupt from error
        # The machine (threads, GPU) and the renderer are known for certain only now.
        origin.update(machine=provenance.machine(), renderer=renderer_name() or "none")
        summaries.append(summary)
        if summary.status != Status.COMPLETED:
            raise SacredInterrupt
        _write_results(spec.folder)
        files = [spec.folder / name for name in run_folder.ARTIFACTS]
        files = [file for file in files if file.exists()]
        origin.update(artifacts={file.name: run_folder.sha256(file) for file in files})
        _run.info["checkpoints"] = _checkpoints(spec.folder)
        for file in files:
            # With a prefix, since Sacred has a config.json of its own.
            _run.add_artifact(file, name=f"run_{file.name}")
        return summary.evaluate_return

    name = run_folder.sacred_id(spec.run_id, attempt)
    with contextlib.suppress(SacredInterrupt):  # Sacred has recorded the status INTERRUPTED
        experiment.run(options={"--id": name, "--beat-interval": SACRED_BEAT_S})
    if stopped:
        raise stopped[0]
    return summaries[0]


def _experiment(spec: Spec, code: provenance.Code) -> Any:
    """A Sacred experiment with our files and MongoDB servers as observers, and with packages and
    commit as we record them."""
    sacred.SETTINGS.CAPTURE_MODE = "no"  # the attempt's log has stdout; capturing it can hang
    sacred.SETTINGS.DISCOVER_SOURCES = "none"  # commit and diff identify the code
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
    logger = logging.getLogger("sacred")
    logger.setLevel(logging.WARNING)
    experiment.logger = logger  # type: ignore[assignment]  # Sacred declares none
    experiment.observers = [sinks.file_sink(Path(spec.results))]
    for url in mongo_urls.all_urls(spec.observers):
        experiment.observers.append(sinks.mongo_sink(url))
    experiment.add_config(dict(spec.config))
    return experiment


def _provenance(spec: Spec, attempt: int, code: provenance.Code) -> dict[str, Any]:
    """What provenance.json holds when an attempt starts."""
    return {
        "run_id": spec.run_id,
        "attempt": attempt,
        "suites": spec.suites,
        # env_steps at which the attempt continued, and how many values of each metric existed then;
        # null until training has done something.
        "from_env_steps": None,
        "from_values": None,
        "started": run_folder.now(),
        "executor": spec.executor,
        "command": list(map(hide_word, spec.command or sys.argv)),
        "code": code.version,
        "git": {**code._asdict(), "dirty": code.dirty},
        "preset": spec.config["preset"],
        "overrides": overrides_of(spec.config),
        "config": spec.config,
        "own": own_code(spec.config),
        "packages": provenance.packages(),
        "machine": provenance.machine(),
        "renderer": None,  # not chosen yet
    }


def _write_results(folder: Path) -> None:
    """Of a finished run: curves.csv, which figures draw, and the last prediction as a video."""
    metrics, _ = read_metrics(folder / run_folder.METRICS)
    values = values_of(m for m in metrics if m["kind"] in ("evaluate", "episode"))
    rows = [
        f"{name},{env_steps},{value!r}\n"
        for name in ("evaluate_return", "episode_return")
        for env_steps, value in values.get(name, ())
    ]
    run_folder.write_text(folder / run_folder.CURVES, "metric,env_steps,value\n" + "".join(rows))
    prediction = folder / run_folder.PREDICTION
    if prediction.exists():
        try:
            with run_folder.reading(prediction) as data, np.load(data) as file:
                frames = prediction_frames(file["truth"], file["model"])
            write_video(folder / run_folder.PREDICTION_VIDEO, frames, PREDICTION_FPS)
        except (OSError, RuntimeError) as error:  # no ffmpeg; the arrays are there all the same
            print(f"{run_folder.PREDICTION_VIDEO}: not written: {error}", file=sys.stderr)


def _checkpoints(folder: Path) -> list[dict[str, str]]:
    """Each checkpoint's path and SHA-256."""
    return [
        {"path": str(path.relative_to(folder)), "sha256": run_folder.sha256(path)}
        for path in run_folder.checkpoint_paths(folder / run_folder.CHECKPOINTS)
    ]
