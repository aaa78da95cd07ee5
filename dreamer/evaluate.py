"""Scores and videos of a run, from its checkpoint:  python -m dreamer.evaluate RUN_DIR

Works on any machine and while the run goes on. Episodes are played as in evaluations (the mode
action, no noise), from seeds that neither training nor its evaluations use, so two commands with
the same seed and checkpoint give the same scores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dreamer import command_line, run_folder
from dreamer.agent import Agent
from dreamer.checkpoint import load_checkpoint
from dreamer.config import Config, config_from_dict
from dreamer.envs.environment import make_environment
from dreamer.envs.simulators import ActionSpace
from dreamer.episodes import play_episode
from dreamer.errors import DamagedError, UserError, counted
from dreamer.machine import prepare_machine
from dreamer.prediction import PREDICTION_CONTEXT, PREDICTION_FPS, predicted, prediction_frames
from dreamer.replay import Episode
from dreamer.run_folder import checkpoint_paths
from dreamer.seeding import torch_generator
from dreamer.video import VIDEO_SUFFIXES, enlarged, write_video

VIDEO_FPS = 25


class Loaded(NamedTuple):
    path: Path  # of the checkpoint
    config: Config
    content: dict[str, Any]


def load_newest(run_dir: Path) -> Loaded:
    """The newest checkpoint of a run that is whole.

    A run that goes on removes its older checkpoints: one that vanishes after it was listed gives
    way to the next, and when all did, they are listed again. Raises UserError if there is none.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such folder; it should be a run's")
    folder = run_dir / run_folder.CHECKPOINTS
    problem = "there is none yet"
    for _ in range(3):
        for path in reversed(checkpoint_paths(folder)):
            try:
                return load(path)
            except FileNotFoundError as error:
                problem = str(error)
            except DamagedError as error:
                problem = error.what
                if path.exists():
                    warnings.warn(f"{problem}; falling back to the one before", stacklevel=2)
    raise UserError(f"{folder}: no checkpoint to load ({problem})")


def load(path: Path) -> Loaded:
    """One checkpoint. Raises DamagedError or OSError like `load_checkpoint`."""
    content = load_checkpoint(path)
    return Loaded(path, config_from_dict(content["config"]), content)


def restored(loaded: Loaded, space: ActionSpace, device: torch.device | str = "cpu") -> Agent:
    """The agent of a checkpoint."""
    agent = Agent(loaded.config, space, device)
    agent.load_state_dict(loaded.content["agent"])
    return agent


def predict(agent: Agent, episode: Episode, seed: int) -> np.ndarray:
    """Frames uint8 [T, ...] of the open-loop prediction of an episode's beginning: truth, model and
    error side by side. Raises UserError where there is nothing to predict or to see it with."""
    if len(episode.image) <= PREDICTION_CONTEXT:
        raise UserError(
            f"--prediction: the episode ended after {len(episode.image) - 1} agent_steps, within "
            f"the {PREDICTION_CONTEXT} images that the model is shown; try another --seed"
        )
    pair = predicted(agent, episode, torch_generator(seed, "predict", 0, agent.device))
    if pair is None:
        raise UserError("--prediction: this agent has no decoder (probe_decoder is off)")
    return prediction_frames(*pair)


def summary(loaded: Loaded, seed: int, returns: list[float], lengths: list[int]) -> dict[str, Any]:
    """What was measured, as plain JSON values. SD with n - 1; null for one episode."""
    counters = loaded.content["counters"]
    return {
        "checkpoint": str(loaded.path),
        "task": loaded.config.task,
        "env_steps": counters["env_steps"],
        "updates": counters["updates"],
        "seed": seed,
        "episodes": len(returns),
        "mean": float(np.mean(returns)),
        "sd": float(np.std(returns, ddof=1)) if len(returns) > 1 else None,
        "returns": returns,
        "lengths_agent_steps": lengths,
    }


def as_text(result: dict[str, Any]) -> str:
    sd = "" if result["sd"] is None else f", SD {result['sd']:.1f}"
    lines = [
        f"{result['task']} after {result['env_steps']} env_steps, {result['updates']} updates",
        f"return of {counted(result['episodes'], 'episode')}: mean {result['mean']:.1f}{sd}",
        "each: " + " ".join(f"{value:.1f}" for value in result["returns"]),
        *(f"{key}: {result[key]}" for key in ("video", "prediction") if key in result),
    ]
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command does, without printing; raises UserError."""
    if arguments.episodes < 1:
        raise UserError("--episodes: at least 1")
    if arguments.seed is not None and arguments.seed < 0:
        raise UserError("--seed: at least 0")
    videos = {name: getattr(arguments, name) for name in ("video", "prediction")}
    for name, path in videos.items():
        _check_video(f"--{name}", path)
    if arguments.checkpoint is None:
        loaded = load_newest(arguments.run_dir)
    else:
        try:
            loaded = load(arguments.checkpoint)
        except DamagedError as error:
            raise UserError(f"--checkpoint: {error.what}") from None
        except OSError as error:
            raise UserError(f"--checkpoint: {arguments.checkpoint}: {error.strerror}") from None
    seed = loaded.config.seed if arguments.seed is None else arguments.seed
    config = dataclasses.replace(loaded.config, device=arguments.device)
    device = prepare_machine(config)
    env = make_environment(config, evaluation=True)
    agent = restored(loaded._replace(config=config), env.action_space, device)
    first, returns, lengths = None, [], []
    try:
        for index in range(arguments.episodes):
            episode, _ = play_episode(env, agent, seed, "score", index)
            first = first or episode
            returns.append(float(episode.reward.sum()))
            lengths.append(len(episode.reward) - 1)
    finally:
        env.close()
    result = summary(loaded, seed, returns, lengths)
    assert first is not None
    if videos["video"] is not None:
        write_video(videos["video"], enlarged(first.image), VIDEO_FPS)
    if videos["prediction"] is not None:
        write_video(videos["prediction"], predict(agent, first, seed), PREDICTION_FPS)
    return result | {name: str(path) for name, path in videos.items() if path is not None}


def _check_video(option: str, path: Path | None) -> None:
    if path is None:
        return
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise UserError(f"{option} {path}: it should end in {' or '.join(VIDEO_SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: no folder {path.parent}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    about = "Scores and videos of a run's agent."
    parser = command_line.Parser("python -m dreamer.evaluate", description=about)
    add = parser.add_argument
    add("run_dir", type=Path, help="the run's folder, such as results/runs/RUN_ID")
    add("--episodes", type=int, default=10, help="how many to play (default: 10)")
    add("--seed", type=int, help="of the episodes (default: the run's own)")
    add("--video", type=Path, metavar="FILE", help="the first episode, as .mp4 or .gif")
    add("--prediction", type=Path, metavar="FILE", help="its beginning, predicted open loop")
    add("--format", choices=("text", "json"), default="text")
    add("--checkpoint", type=Path, metavar="FILE", help="instead of the run's newest")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda if there")
    return parser.parse_args(arguments)


def show(arguments: argparse.Namespace) -> int:
    result = run(arguments)
    print(json.dumps(result) if arguments.format == "json" else as_text(result))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return command_line.main(parse, show, argv)


if __name__ == "__main__":
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    raise SystemExit(main())
