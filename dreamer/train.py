"""The loop of Algorithm 1: collect, update, evaluate, count.

Everything that a run is about to do follows from its counters (`next_stage`), and everything
random in it from its seed and those counters (seeding.py). So a run that was killed and is started
again continues from its last checkpoint and repeats, bit for bit on a CPU, what it would have done.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer import run_folder
from dreamer.agent import Agent
from dreamer.checkpoint import CheckpointWriter, load_checkpoint, set_aside
from dreamer.collect import Collector, make_collector
from dreamer.config import Config, config_dict, config_from_dict, outcome_dict
from dreamer.envs.environment import make_environment
from dreamer.episodes import play_episode
from dreamer.errors import DamagedError, UserError
from dreamer.machine import prepare_machine
from dreamer.prediction import save_prediction
from dreamer.recording import LOG, SAMPLE, Clock, Metrics, Record
from dreamer.replay import EMPTY, Cursor, DeviceReplay, Episode, Replay, forecast, on_device
from dreamer.run_folder import Status, checkpoint_paths
from dreamer.schedule import Counters, Round, Stage, next_round, next_stage, updates_due
from dreamer.seeding import numpy_generator, torch_generator


class Progress(NamedTuple):
    """What a display of a running run wants to know."""

    env_steps: int
    updates: int
    updates_due: int
    episode_return: float | None  # of the last training episode
    evaluate_return: float | None  # mean of the last evaluation


class Summary(NamedTuple):
    """How `train` ended."""

    status: Status  # COMPLETED or INTERRUPTED
    env_steps: int
    agent_steps: int
    updates: int
    evaluate_return: float | None


def train(
    config: Config,
    run_dir: Path,
    log: Callable[[Record], None] = lambda record: None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Summary:
    """Trains in `run_dir` until the budget is used, from the last checkpoint if there is one.

    `log` gets each record after it was appended to `metrics.jsonl`. `should_stop` is asked between
    updates and between agent_steps; when it says yes, a checkpoint is saved and the summary's
    status is INTERRUPTED. `on_progress` is called as often. Raises UserError for what a user can
    mend, and FloatingPointError when the losses are no longer finite.
    """
    device = prepare_machine(config)
    run_dir.mkdir(parents=True, exist_ok=True)
    _keep_config(config, run_dir / run_folder.CONFIG)
    trainer = Trainer(config, run_dir, device, log, should_stop, on_progress)
    status = Status.COMPLETED
    try:
        trainer.resume()
        while (stage := next_stage(config, trainer.counters)) is not None:
            with trainer.clock.on(stage):
                trainer.stages[stage]()
    except _StoppedError:
        status = Status.INTERRUPTED
        trainer.save_checkpoint()
    finally:
        trainer.close()
    c = trainer.counters
    return Summary(status, c.env_steps, c.agent_steps, c.updates, trainer.evaluate_return)


class _StoppedError(Exception):
    """Someone asked to stop; what was begun (an episode, an evaluation) is dropped."""


class Trainer:
    """A run's parts and the four things it does. After each of them the state is whole."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        device: torch.device,
        log: Callable[[Record], None],
        should_stop: Callable[[], bool],
        on_progress: Callable[[Progress], None],
    ):
        self.config, self.run_dir, self.device = config, run_dir, device
        self.should_stop, self.on_progress = should_stop, on_progress
        self.metrics = Metrics(run_dir, log)
        self.counters = Counters()
        self.saved: Counters | None = None  # in the last checkpoint
        self.sums: dict[str, Tensor] = {}  # of what updates watch, since the last record
        self.summed_updates = 0
        self.clock = Clock((*Stage, SAMPLE, LOG))
        self.episode_return: float | None = None
        self.evaluate_return: float | None = None
        self.evaluate_env = make_environment(config, evaluation=True)
        self.space = self.evaluate_env.action_space
        self.agent = Agent(config, self.space, device)
        self.collector: Collector = make_collector(config, self.agent)
        self.replay: Replay | None = None
        self.source: Replay | DeviceReplay | None = None  # the replay, or its copy on the GPU
        self.writer = CheckpointWriter(run_dir / run_folder.CHECKPOINTS)
        self.stages = {
            Stage.COLLECT: self.collect,
            Stage.UPDATE: self.update,
            Stage.EVALUATE: self.evaluate,
            Stage.SAVE: self.save,
        }

    # The four stages.

    def collect(self) -> None:
        """A round of training episodes into replay; the first ones from random actions.

        In parallel the next round then begins, beside the updates that this one's env_steps call
        for: its weights are those that the episode before it could already have used. Only the
        first one after the seed episodes waits, for weights that have learned anything at all.
        """
        if self.collector.round is None:
            self.collector.start(next_round(self.config, self.counters, self.space.discrete))
        round, before = self.collector.round, self.counters.env_steps
        assert round is not None

        def before_step(env_steps: int) -> None:
            self._check_stop()
            self._show(before + env_steps)

        for episode, env_steps in self.collector.take(before_step):
            self._keep(episode, env_steps, round)
        c, config = self.counters, self.config
        over = c.env_steps >= config.env_steps
        if config.collect == "parallel" and not round.random and not over:
            self.collector.start(next_round(config, c, self.space.discrete))

    def _keep(self, episode: Episode, env_steps: int, round: Round) -> None:
        """Appends a training episode to replay, counts and records it."""
        assert self.replay is not None
        self.replay.append(episode)
        c, agent_steps = self.counters, len(episode.reward) - 1
        # Updates that Algorithm 1 does before this episode and that its weights have not seen.
        staleness = 0 if round.random else updates_due(self.config, c) - round.updates
        self.counters = c._replace(
            env_steps=c.env_steps + env_steps,
            agent_steps=c.agent_steps + agent_steps,
            episodes=c.episodes + 1,
            seed_env_steps=c.seed_env_steps + (env_steps if round.random else 0),
        )
        self.episode_return = float(episode.reward.sum())
        self._record(
            "episode",
            episode_return=self.episode_return,
            episode_length_agent_steps=agent_steps,
            random=round.random,
            staleness_updates=staleness,
        )

    def update(self) -> None:
        """One gradient update; every `log_every_updates` a record of their means."""
        self._check_stop()
        config, number = self.config, self.counters.updates
        assert self.source is not None
        with self.clock.on(SAMPLE):
            generator = numpy_generator(config.seed, "sample", number)
            batch = self.source.sample(generator, config.batch_size)
        watched = self.agent.update(batch, number)
        for name, value in watched.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.summed_updates += 1
        self.counters = self.counters._replace(updates=number + 1)
        if (number + 1) % config.log_every_updates == 0:
            means = {k: v.item() / self.summed_updates for k, v in self.sums.items()}
            self.sums, self.summed_updates = {}, 0
            bad = [name for name, value in means.items() if not math.isfinite(value)]
            if bad:
                raise FloatingPointError(f"not finite after {number + 1} updates: {', '.join(bad)}")
            self._record("update", **means)
        self._show()

    def evaluate(self) -> None:
        """Episodes of the mode action without noise, in an environment of their own; and an
        open-loop prediction of the first of them."""
        c, config = self.counters, self.config
        returns = []
        for number in range(config.eval_episodes):
            index = c.evaluations * config.eval_episodes + number
            episode, _ = play_episode(
                self.evaluate_env,
                self.agent,
                config.seed,
                "evaluate",
                index,
                before_step=lambda _: self._check_stop(),
            )
            returns.append(float(episode.reward.sum()))
            if number == 0:
                with self.clock.on(LOG):
                    self._save_prediction(episode)
        self.counters = c._replace(evaluations=c.evaluations + 1, evaluated_env_steps=c.env_steps)
        self.evaluate_return = float(np.mean(returns))
        self._record(
            "evaluate",
            evaluate_return=self.evaluate_return,
            evaluate_returns=returns,
            evaluate_episodes=len(returns),
        )
        spent = self.clock.seconds()
        parts = {f"seconds_{part}": seconds for part, seconds in spent.items()}
        self._record("time", **parts, seconds_total=sum(spent.values()))
        self._show()

    def save(self) -> None:
        self.counters = self.counters._replace(saved_env_steps=self.counters.env_steps)
        self.save_checkpoint()

    # Parts of them.

    def _save_prediction(self, episode: Episode) -> None:
        c = self.counters
        generator = torch_generator(self.config.seed, "predict", c.evaluations, self.device)
        path = self.run_dir / run_folder.PREDICTION
        save_prediction(path, self.agent, episode, generator, c.env_steps)

    def _record(self, kind: str, **values: Any) -> None:
        c = self.counters
        counts = dict(env_steps=c.env_steps, agent_steps=c.agent_steps, updates=c.updates)
        with self.clock.on(LOG):
            self.metrics.append({"kind": kind, **counts, **values})

    def _show(self, env_steps: int | None = None) -> None:
        c = self.counters
        due = updates_due(self.config, c)
        env_steps = c.env_steps if env_steps is None else env_steps
        self.on_progress(
            Progress(env_steps, c.updates, due, self.episode_return, self.evaluate_return)
        )

    def _check_stop(self) -> None:
        if self.should_stop():
            raise _StoppedError

    # Checkpoints.

    def save_checkpoint(self) -> None:
        """Everything that `resume` needs; replay and metrics are in files already, so only where
        they stand is saved. It is written while training goes on."""
        replay, metrics, c = self.replay, self.metrics, self.counters
        assert replay is not None
        if c == self.saved:
            return  # a stop before anything was done
        self.saved = c
        content = {
            "config": config_dict(self.config),
            "counters": c._asdict(),
            "replay": replay.cursor()._asdict(),
            "metrics_bytes": metrics.size_bytes(),
            "sums": self.sums,
            "summed_updates": self.summed_updates,
            "seconds": self.clock.seconds(),
            "returns": [self.episode_return, self.evaluate_return],
            "agent": self.agent.state_dict(),
            "collector": self.collector.state_dict(),
        }

        def flush() -> None:  # a checkpoint may not be on the disk before what it points to
            replay.flush()
            metrics.flush()

        self.writer.save(c.updates, c.env_steps, content, flush)

    def resume(self) -> None:
        """Continues from the newest checkpoint that is whole and whose metrics and replay are, else
        from the beginning. Raises DamagedError if there are checkpoints and none is, and
        UserError for a run without its replay."""
        refused: dict[Path, str] = {}
        for path in reversed(checkpoint_paths(self.run_dir / run_folder.CHECKPOINTS)):
            try:
                self._restore(load_checkpoint(path, self.device))
            except DamagedError as error:
                refused[path] = error.what
                warnings.warn(f"{error.what}; falling back to the one before", stacklevel=2)
                continue
            set_aside(refused)
            return
        if refused:
            newest = next(iter(refused.values()))
            raise DamagedError(f"{newest}; no checkpoint can be continued without it")
        self.metrics.restore(0)
        self.replay = self._open_replay(EMPTY)

    def _restore(self, content: dict[str, Any]) -> None:
        if self.replay is not None:
            self.replay.close()  # of a newer checkpoint, which was refused
            self.replay = None
        counters = Counters(**content["counters"])
        done = next_stage(self.config, counters) is None
        if not done or run_folder.discarded_replay(self.run_dir) is None:
            self.replay = self._open_replay(Cursor(**content["replay"]))
        self.metrics.restore(content["metrics_bytes"])
        self.agent.load_state_dict(content["agent"])
        self.counters = self.saved = counters
        self.sums, self.summed_updates = content["sums"], content["summed_updates"]
        self.clock.restore(content["seconds"])
        self.episode_return, self.evaluate_return = content["returns"]
        self.collector.load_state_dict(content.get("collector"))  # older ones have none

    def _open_replay(self, cursor: Cursor) -> Replay:
        gone = run_folder.discarded_replay(self.run_dir)
        if gone is not None:
            raise UserError(
                f"{self.run_dir}: {gone.get('why')}, so its replay was discarded; "
                "it can be evaluated and drawn, but to train it further, start it anew with --fresh"
            )
        replay = Replay(
            self.run_dir / run_folder.REPLAY, self.space.size, self.config.length, cursor
        )
        expected = forecast(self.config, self.space.size)
        needed = replay.disk_bytes(expected.steps - cursor.agent_steps)
        free = shutil.disk_usage(self.run_dir).free
        if free < needed:
            raise UserError(
                f"{self.run_dir}: replay will need {needed / 1e9:.1f} GB more, and only "
                f"{free / 1e9:.1f} GB are free; free some, or set --results to another disk"
            )
        self.source = on_device(replay, expected.raw_bytes, self.device)
        return replay

    def close(self) -> None:
        self.collector.close()
        self.evaluate_env.close()
        try:
            self.writer.wait()
        finally:
            self.metrics.close()
            if self.replay is not None:
                self.replay.close()


def _keep_config(config: Config, path: Path) -> None:
    """Writes the run's configuration; refuses a folder that belongs to another one."""
    if path.exists():
        old = config_from_dict(json.loads(path.read_text()))
        old_outcome, outcome = outcome_dict(old), outcome_dict(config)
        differing = [key for key in outcome if outcome[key] != old_outcome[key]]
        if differing:
            raise UserError(
                f"{path}: this folder's run has another {', '.join(differing)}; use another folder"
            )
    run_folder.write_json(path, config_dict(config))
