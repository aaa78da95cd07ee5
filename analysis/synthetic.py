"""Synthetic records from a random generator, in the layout of real run folders.

    python -m analysis.synthetic RESULTS suites/figure9.yaml suites/figure6.yaml
    python -m analysis.synthetic RESULTS suites/figure9.yaml --pictures results/examples

Tests read them, and they show what figures look like before anything was trained. The provenance
of each run says that it is synthetic, and so does every figure and table drawn from it. Curves are
logistic with noise.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from analysis.count.summary import summarise
from analysis.draw import tables
from analysis.draw.save import small_picture
from analysis.draw.suite import draw_suite
from analysis.read.files import FileSource
from analysis.read.frame import load_suite
from analysis.read.predictions import Prediction, read_predictions
from analysis.variants import DEFAULT_BEHAVIOUR
from dreamer import run_folder
from dreamer.errors import counted
from dreamer.run_folder import Status
from suites import command
from suites.language.suite import expand, merge

EASE = {"dreamer": 1.0, "no_value": 0.55, "planet": 0.62}
FIDELITY = {"reconstruction": 1.0, "contrastive": 0.66, "reward": 0.28}
GAMES = {"atari:pong": (-21, 21), "atari:boxing": (-30, 100), "atari:freeway": (0, 34)}
UPDATES_PER_ENV_STEP = 0.1
FRAMES = 50
CONTEXT = 5
OF_PREDICTIONS = ("strips", "predictions", "observations")


def final_height(config: Mapping[str, Any]) -> float:
    """The score that a run's curve approaches; depends on task, method and settings."""
    hardness = _uniform(config["task"], "hardness")
    height = 980 - 560 * hardness**2
    method = EASE.get(config["behaviour"], 0.6) * FIDELITY.get(config["representation"], 0.5)
    if config["behaviour"] == "dreamer":
        reach = 1 - 0.06 * abs(np.log2(config["horizon"] / 20))
    elif config["behaviour"] == "no_value":
        reach = 0.55 + 0.75 * min(config["horizon"], 40) / 40 - 0.15 * hardness
    else:
        reach = 1 - 0.25 * abs(np.log2(config["planner_horizon"] / 12)) * hardness
    repeat = {1: 0.88, 2: 1.0, 4: 0.93 - 0.35 * hardness}.get(config["action_repeat"], 0.8)
    return float(np.clip(height * method * reach * repeat, 0, 1000))


def _uniform(*words: object) -> float:
    """A number in [0, 1) that depends on the words alone."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def scores(config: Mapping[str, Any], env_steps: np.ndarray) -> np.ndarray:
    """Noisy returns [P] of one run at `env_steps` [P], between 0 and 1000 (GAMES have a range of
    their own); seeded by the config."""
    words = repr(sorted(config.items())).encode()
    generator = np.random.default_rng(int.from_bytes(hashlib.blake2b(words).digest()[:8], "big"))
    height = final_height(config) * (1 + 0.05 * generator.standard_normal())
    middle = (0.08 + 0.35 * _uniform(config["task"], "middle")) * config["env_steps"]
    middle *= 1 + 0.15 * generator.standard_normal()
    slope = 0.06 * config["env_steps"]
    rise = 1 / (1 + np.exp(-(env_steps - middle) / slope))
    drift = np.cumsum(generator.standard_normal(len(env_steps))) * 8 / np.sqrt(len(env_steps))
    noise = generator.standard_normal(len(env_steps)) * 0.06 * height
    low, high = GAMES.get(config["task"], (0, 1000))
    return low + (high - low) * np.clip(height * rise + noise + drift * 4, 0, 1000) / 1000


def write_run(
    results: Path,
    run_id: str,
    config: Mapping[str, Any],
    *,
    until: int | None = None,
    status: str = Status.COMPLETED,
    commit: str = "0123456789ab",
    prediction: bool = False,
) -> Path:
    """Write a run folder as training does. `until`: env_steps at which the run stopped."""
    folder = run_folder.run_path(results, run_id)
    attempt = run_folder.attempt_path(folder, 1)
    attempt.mkdir(parents=True, exist_ok=True)
    (folder / run_folder.CONFIG).write_bytes(orjson.dumps(dict(config)))
    end = until or config["env_steps"]
    (folder / run_folder.METRICS).write_bytes(b"".join(_lines(config, end)))
    provenance = {
        "synthetic": True, "attempt": 1, "from_env_steps": 0, "from_values": {}, "code": commit,
        "packages": {"numpy": np.__version__}, "machine": {"host": "nowhere"},
    }  # fmt: skip
    (attempt / run_folder.PROVENANCE).write_bytes(orjson.dumps(provenance))
    state = {"run_id": run_id, "status": status, "attempt": 1, "env_steps": end}
    (folder / run_folder.STATUS).write_bytes(orjson.dumps(state))
    if prediction:
        truth, model = pictures(config)
        np.savez_compressed(
            folder / run_folder.PREDICTION, truth=truth, model=model, context=CONTEXT, env_steps=end
        )
    return folder


def _lines(config: Mapping[str, Any], end: int) -> list[bytes]:
    """Evaluations, training episodes (a tenth of them) and losses up to `end` env_steps."""
    every = config["eval_every_env_steps"]
    first = config["seed_episodes"] * config["time_limit_env_steps"]
    last = config["env_steps"]
    steps = np.unique([*range(every, last + 1, every), min(first, last), last])
    values = scores(config, steps)
    lines = []
    for env_steps, value in zip(steps.tolist(), values.tolist(), strict=True):
        if env_steps > end:
            break
        counters = {
            "env_steps": env_steps,
            "agent_steps": env_steps // config["action_repeat"],
            "updates": int(UPDATES_PER_ENV_STEP * max(0, env_steps - first)),
        }
        losses = {"model_loss": 30 + 5e4 / (env_steps + 1), "kl": 3 + 1e4 / (env_steps + 1)}
        episode = {"episode_return": 0.9 * value, "episode_length_agent_steps": 500}
        for kind, record in (
            ("episode", {**episode, "random": env_steps <= first}),
            ("update", losses),
            ("evaluate", {"evaluate_return": value, "evaluate_returns": [value]}),
        ):
            lines.append(orjson.dumps({"kind": kind, **counters, **record}) + b"\n")
    return lines


def pictures(config: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """A swinging ball, and a blurred prediction of it: uint8 [50, 64, 64, 3] each."""
    hue = _uniform(config["task"], "hue")
    pace = 0.18 + 0.25 * _uniform(config["task"], "pace")
    colour = np.array([0.5 + 0.5 * np.cos(2 * np.pi * (hue + shift)) for shift in (0, 0.33, 0.67)])
    y, x = np.mgrid[0:64, 0:64] / 63 * 2 - 1
    floor = np.stack([0.30 + 0.15 * ((x * 4 // 1 + y * 4 // 1) % 2)] * 3, -1) * [0.8, 0.9, 1.1]

    def frame(angle: float, radius: float, blur: float) -> np.ndarray:
        cx, cy = 0.55 * np.sin(angle), 0.3 * np.cos(1.7 * angle)
        distance = np.hypot(x - cx, y - cy)
        inside = 1 / (1 + np.exp((distance - radius) / (0.02 + blur)))[..., None]
        rod = (np.abs(x - cx * (y + 1) / (cy + 1)) < 0.035) & (y < cy)
        image = np.where(rod[..., None], 0.75, floor)
        return image * (1 - inside) + inside * (0.25 + 0.7 * colour)

    truth = np.stack([frame(pace * t, 0.26, 0.0) for t in range(FRAMES)])
    ahead = [max(0, t - CONTEXT + 1) for t in range(FRAMES)]
    model = np.stack(
        [frame(pace * t + 0.004 * a, 0.26, 0.03 + 0.001 * a) for t, a in enumerate(ahead)]
    )
    return _bytes(truth), _bytes(model)


def _bytes(images: np.ndarray) -> np.ndarray:
    return (np.clip(images, 0, 1) * 255).astype(np.uint8)


def write_suites(results: Path, suites: Sequence[Path]) -> int:
    """Synthetic runs of all suites; returns their number."""
    runs = merge([expand(path) for path in suites])
    for run in runs:
        first = run.config["seed"] == 0 and run.config["action_repeat"] == 2
        prediction = first and run.config["behaviour"] == DEFAULT_BEHAVIOUR
        write_run(results, run.run_id, run.config, prediction=prediction)
    return len(runs)


def save_pictures(results: Path, suites: Sequence[Path], out: Path) -> list[Path]:
    """The figures of synthetic suites as small PNGs (150 dpi, 256 colours), and their score tables.

    Predictions are shown of suites with the figure `predictions` only, one strip of each suite.
    """
    saved, source = [], FileSource(results)
    out.mkdir(parents=True, exist_ok=True)
    for path in suites:
        suite, loaded = load_suite(source, expand(path))
        summary = summarise(suite, loaded)
        predictions: list[Prediction] = []
        names = [one for one in suite.shown.figures if one not in OF_PREDICTIONS]
        if "predictions" in suite.shown.figures:
            predictions = read_predictions(source, summary.runs)[0]
            names = list(OF_PREDICTIONS)
        drawn = draw_suite(names, summary, predictions)
        for one in drawn[max(0, len(predictions) - 1) :]:
            saved.append(out / f"{suite.name}-{one.name}.png")
            small_picture(one.figure, 150, 256).save(saved[-1], optimize=True)
        table = tables.markdown(tables.score_cells(summary))
        run_folder.write_text(out / f"{suite.name}-scores.md", table)
    return saved


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = command.Parser(description="Write synthetic records of suites.")
    parser.add_argument("results", type=Path, help="folder to write the records to")
    parser.add_argument("suites", type=Path, nargs="+", help="suite files")
    parser.add_argument("--pictures", type=Path, help="also draw their figures into this folder")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> int:
    count = write_suites(options.results, options.suites)
    print(f"{counted(count, 'synthetic run')} in {options.results}")
    if options.pictures:
        saved = save_pictures(options.results, options.suites, options.pictures)
        print(counted(len(saved), "picture"))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return command.main(arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
