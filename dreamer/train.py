"""The loop of Algorithm 1: collect, update, evaluate, count.

Everything that a run is about to do follows from its counters (`next_stage`), and everything
random in it from its seed and those counters (seeding.py). So a run that was killed and is started
again continues from its last checkpoint and repeats, bit for bit on a CPU, what it would have done.

    python -m dreamer.train --task toy_dot --preset tiny

trains one agent, with any setting of config.py as an option. `suites.run` also keeps provenance.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer import command_line, run_folder
from dreamer.agent import Agent
from dreamer.checkpoint import CheckpointWriter, load_checkpoint, remove_checkpoint, set_aside
from dreamer.config import (
    PRESETS,
    Config,
    config_dict,
    config_from_dict,
    make_config,
    outcome_values,
)
from dreamer.envs.environment import make_environment
from dreamer.envs.tasks import check_task
from dreamer.errors import DamagedError, UserError
from dreamer.machine import prepare_machine
from dreamer.prediction import save_prediction
from dreamer.recording import LOG, SAMPLE, Clock, Metrics, Record
from dreamer.replay import EMPTY, Cursor, DeviceReplay, Episode, Replay, forecast, on_device
from dreamer.rollouts import make_collector, make_evaluator
from dreamer.run_folder import Status, checkpoint_paths, size_text
from dreamer.schedule import Counters, Round, Stage, endless, next_round, next_stage, updates_due
from dreamer.seeding import numpy_generator

MUCH_TOO_SHORT = 0.1  # share of episodes that cannot be sampled, from which a warning is due


class Progress(NamedTuple):
    """What a display of a running run wants to know."""

    env_steps: int
    updates: int
    updates_due: int
    episode_return: float | None  # of the last training episode
    evaluate_return: float | None  # mean of the last evaluation
    short_episodes: float = 0.0  # share of episodes that are too short to be sampled


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

    A run that was trained with a smaller budget goes on, bit for bit as if the larger one had been
    asked for at once; one that has gone further already is left alone.

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
        past = trainer.has_gone_further()
        while not past and (stage := next_stage(config, trainer.counters)) is not None:
            trainer.take_evaluation()
            with trainer.clock.on(stage):
                trainer.stages[stage]()
        trainer.finish()
    except _StoppedError:
        status = Status.INTERRUPTED
        trainer.save_checkpoint()
    finally:
        trainer.close()
    c = trainer.counters
    return Summary(status, c.env_steps, c.agent_steps, c.updates, trainer.evaluate_return)


class _StoppedError(Exception):
    """A stop was asked for; episodes under way are dropped."""


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
        self.endless = endless(config)
        self.should_stop, self.on_progress = should_stop, on_progress
        self.metrics = Metrics(run_dir, log)
        self.counters = Counters()
        self.common: str | None = None  # once the state depends on the budget: see `keep_common`
        self.saved: Counters | None = None  # in the last checkpoint
        self.sums: dict[str, Tensor] = {}  # of what updates watch, since the last record
        self.summed_updates = 0
        self.warned: set[str] = set()  # what `_warn_once` has warned of
        self.clock = Clock((*Stage, SAMPLE, LOG))
        self.episode_return: float | None = None
        self.evaluate_return: float | None = None
        self.held: list[Record] = []  # that follow the result of the evaluation under way
        env = make_environment(config, evaluation=True)
        self.space = env.action_space
        self.agent = Agent(config, self.space, device)
        self.collector = make_collector(config, self.agent)
        self.evaluator = make_evaluator(config, self.agent, env)
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

        With `collect: parallel` the next round begins at once and is played during the updates
        that this round's env_steps call for. Only the first one after the seed episodes waits for
        these updates, so that its weights have learned something.
        """
        self._means()
        if self.collector.round is None:
            self._next_round()
        round = self.collector.round
        assert round is not None

        def before_step(env_steps: int) -> None:
            self._check_stop()
            self.take_evaluation()
            self._show(env_steps)

        for episode, env_steps in self.collector.take(before_step):
            self._append(episode, env_steps, round)
        if self.config.collect == "parallel" and not round.random:
            self._next_round()

    def _next_round(self) -> None:
        """Prepares the round that a larger budget would play now, and begins what this budget has
        room for."""
        self.collector.prepare(next_round(self.endless, self.counters, self.space.discrete))
        self._begin_round()

    def _begin_round(self) -> None:
        c, config, prepared = self.counters, self.config, self.collector.round
        assert prepared is not None
        if c.env_steps >= config.env_steps and not prepared.random:
            return
        room = next_round(config, c, self.space.discrete).episodes
        if room < prepared.episodes:
            self.keep_common()
        self.collector.begin(room)

    def _append(self, episode: Episode, env_steps: int, round: Round) -> None:
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
            means = self._means()
            self._record("update", **means)
            self.sums, self.summed_updates = {}, 0
            if means["embed_variance"] == 0:
                self._warn_once(
                    "blindness",
                    "the encoder gives the same embedding for every picture (embed_variance is 0): "
                    "the model is blind, and most likely stays so; set a lower "
                    "model_learning_rate or another seed",
                )
        self._show()

    def evaluate(self) -> None:
        """Begins an evaluation in an environment of its own. It is played before the next stage;
        with `collect: parallel` while training goes on, until the next one is due or the run ends.
        """
        self._means()
        self.take_evaluation(block=True)  # the one before
        c = self.counters
        if next_stage(self.endless, c) != Stage.EVALUATE:  # only since the budget ends here
            self.keep_common()
        self.evaluator.begin(c)
        self.counters = c._replace(evaluations=c.evaluations + 1, evaluated_env_steps=c.env_steps)
        self._record_short_episodes()

    def save(self) -> None:
        self.counters = self.counters._replace(saved_env_steps=self.counters.env_steps)
        self.save_checkpoint()

    def finish(self) -> None:
        """Waits for the last evaluation, and saves its result."""
        if self.evaluator.due is not None:
            self.take_evaluation(block=True)
            self.save_checkpoint()

    # Parts of them.

    def take_evaluation(self, block: bool = False) -> None:
        """Records the evaluation under way if it is over; `block`: once it is.

        Its records stand in the file where it was due: those of what came meanwhile follow now.
        """
        due = self.evaluator.due
        if due is None:
            return
        with self.clock.on(Stage.EVALUATE):
            scores = self.evaluator.take(self._check_stop, block)
        if scores is None:
            return
        self.saved = None  # a checkpoint of now has the result
        if scores.prediction is not None:
            with self.clock.on(LOG):
                path = self.run_dir / run_folder.PREDICTION
                save_prediction(path, *scores.prediction, due.env_steps)
        self.evaluate_return = float(np.mean(scores.returns))
        self._record(
            "evaluate",
            due,
            evaluate_return=self.evaluate_return,
            evaluate_returns=scores.returns,
            evaluate_episodes=len(scores.returns),
        )
        spent = self.clock.seconds()
        parts = {f"seconds_{part}": seconds for part, seconds in spent.items()}
        self._record("time", due, **parts, seconds_total=sum(spent.values()))
        with self.clock.on(LOG):
            for record in self.held:
                self.metrics.append(record)
        self.held = []
        self._show()

    def _means(self) -> dict[str, float]:
        """Means of what updates watched since their last record. Raises FloatingPointError if one
        is not finite: asked for before weights are used or saved, and not only for records."""
        means = {k: v.item() / self.summed_updates for k, v in self.sums.items()}
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"not finite after {self.counters.updates} updates: {', '.join(bad)}"
            )
        return means

    def _record_short_episodes(self) -> None:
        """Records how many episodes are too short to be sampled, if any are."""
        assert self.replay is not None
        short, share = self.replay.short_episodes, self._short_share()
        if not short:
            return
        self._record("replay", short_episodes=short, short_episodes_share=share)
        if share > MUCH_TOO_SHORT:
            self._warn_once(
                "short episodes",
                f"{short} of {self.counters.episodes} episodes are shorter than a sequence "
                f"(length {self.config.length} agent_steps, with the reset) and are never trained "
                "on; set a smaller length",
            )

    def _warn_once(self, of: str, text: str) -> None:
        """`of` names the warning; its text may differ from time to time."""
        if of not in self.warned:
            self.warned.add(of)
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def _short_share(self) -> float:
        if self.replay is None or not self.counters.episodes:
            return 0.0
        return self.replay.short_episodes / self.counters.episodes

    def _record(self, kind: str, at: Counters | None = None, /, **values: Any) -> None:
        """`at`: where the run was, if that is not where it is now."""
        c = at or self.counters
        counts = dict(env_steps=c.env_steps, agent_steps=c.agent_steps, updates=c.updates)
        record = {"kind": kind, **counts, **values}
        if self.evaluator.due is not None:
            self.held.append(record)
            return
        with self.clock.on(LOG):
            self.metrics.append(record)

    def _show(self, playing_env_steps: int = 0) -> None:
        """`playing_env_steps`: of the episode under way."""
        c = self.counters
        self.on_progress(
            Progress(
                c.env_steps + playing_env_steps,
                c.updates,
                updates_due(self.config, c),
                self.episode_return,
                self.evaluate_return,
                self._short_share(),
            )
        )

    def _check_stop(self) -> None:
        if self.should_stop():
            raise _StoppedError

    # Checkpoints.

    def keep_common(self) -> None:
        """Saves the last state that a run with a larger budget has too, before what only the end
        of this budget asks for: an evaluation between two regular ones, fewer episodes than
        `environments` in a round."""
        if self.common is None:
            with self.clock.on(Stage.SAVE):
                self.common = self.save_checkpoint(common=True)

    def save_checkpoint(self, common: bool = False) -> str:
        """Everything that `resume` needs; replay and metrics are in files already, so only where
        they stand is saved. It is written while training goes on. Returns its name."""
        self._means()
        replay, metrics, c = self.replay, self.metrics, self.counters
        assert replay is not None
        name = run_folder.checkpoint_name(c.env_steps, c.updates, common)
        if c == self.saved and not common:
            return name  # a stop before anything was done
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
            "evaluation": self.evaluator.state_dict(),
            "held": self.held,
            "common": self.common,
        }

        def flush() -> None:  # a checkpoint may not be on the disk before what it points to
            replay.flush()
            metrics.flush()

        self.writer.save(name, content, flush)
        return name

    def resume(self) -> None:
        """Continues from the newest checkpoint that is whole and whose metrics and replay are, else
        from the beginning. With a larger budget than before, checkpoints that depend on the
        smaller one are removed.

        Raises DamagedError if there are checkpoints and none is whole, and UserError for a run
        without its replay.
        """
        run_folder.require_replay(self.run_dir)
        ends: list[Path] = []  # of a smaller budget
        refused: dict[Path, str] = {}
        for path in reversed(checkpoint_paths(self.run_dir / run_folder.CHECKPOINTS)):
            try:
                content = load_checkpoint(path, self.device)
                if is_end(content, self.config.env_steps):
                    ends.append(path)
                    continue
                self._restore(content)
            except DamagedError as error:
                refused[path] = error.what
                warnings.warn(f"{error.what}; falling back to the one before", stacklevel=2)
                continue
            for end in ends:
                remove_checkpoint(end)
            set_aside(refused)
            if self.collector.round is not None:
                self._begin_round()
            return
        if ends:
            raise UserError(
                f"{ends[0]}: a larger budget cannot continue this run exactly as if it had been "
                "asked for at once; keep its budget, or start it anew (--fresh)"
            )
        if refused:
            newest = next(iter(refused.values()))
            raise DamagedError(f"{newest}; no checkpoint can be continued without it")
        self.metrics.restore(0)
        self.replay = self._open_replay(EMPTY)

    def _restore(self, content: dict[str, Any]) -> None:
        if self.replay is not None:
            self.replay.close()  # of a newer checkpoint, which was refused
        self.replay = self._open_replay(Cursor(**content["replay"]))
        self.metrics.restore(content["metrics_bytes"])
        self.agent.load_state_dict(content["agent"])
        self.counters = self.saved = Counters(**content["counters"])
        self.sums, self.summed_updates = content["sums"], content["summed_updates"]
        self.clock.restore(content["seconds"])
        self.episode_return, self.evaluate_return = content["returns"]
        self.collector.load_state_dict(content.get("collector"))  # older ones have none
        self.evaluator.load_state_dict(content.get("evaluation"))
        self.held = content.get("held", [])
        self.common = content.get("common")

    def has_gone_further(self) -> bool:
        """Whether a larger budget took the run past the end of this one: the first episode that
        reaches it, if there were `seed_episodes` by then."""
        if self.counters.env_steps <= self.config.env_steps:
            return False
        lines = (self.run_dir / run_folder.METRICS).read_bytes().splitlines()
        written = [*map(json.loads, lines), *self.held]
        steps = [record["env_steps"] for record in written if record["kind"] == "episode"]
        possible = steps[self.config.seed_episodes - 1 :]
        end = next((n for n in possible if n >= self.config.env_steps), math.inf)
        return self.counters.env_steps > end

    def _open_replay(self, cursor: Cursor) -> Replay:
        replay = Replay(
            self.run_dir / run_folder.REPLAY, self.space.size, self.config.length, cursor
        )
        expected = forecast(self.config, self.space.size)
        needed = replay.disk_bytes(expected.steps - cursor.agent_steps)
        free = shutil.disk_usage(self.run_dir).free
        if free < needed:
            raise UserError(
                f"{self.run_dir}: replay will need {size_text(needed)} more, and only "
                f"{size_text(free)} are free; free some, or set --results to another disk"
            )
        self.source = on_device(replay, expected.raw_bytes, self.device)
        return replay

    def close(self) -> None:
        self.collector.close()
        self.evaluator.close()
        try:
            self.writer.wait()
        finally:
            self.metrics.close()
            if self.replay is not None:
                self.replay.close()


def is_end(content: dict[str, Any], env_steps: int) -> bool:
    """Whether a checkpoint depends on a smaller budget than `env_steps`. Where an older one does
    not say so, what may depend on it does."""
    config, c = config_from_dict(content["config"]), Counters(**content["counters"])
    if env_steps <= config.env_steps:
        return False
    if "common" in content:
        return content["common"] is not None
    last_rounds = (config.environments - 1) * config.time_limit_env_steps
    regular = c.evaluated_env_steps < c.env_steps or c.env_steps % config.eval_every_env_steps == 0
    alone = config.collect == "interleaved" and config.environments == 1
    return c.env_steps >= config.env_steps - last_rounds and not (alone and regular)


def _keep_config(config: Config, path: Path) -> None:
    """Writes the run's configuration; refuses a folder that belongs to another one."""
    if path.exists():
        found = run_folder.read_json(path)
        if found is None:
            raise UserError(f"{path}: damaged; restore it, or use another folder")
        old = config_from_dict(found)
        old_outcome, outcome = outcome_values(vars(old)), outcome_values(vars(config))
        differing = [key for key in outcome if outcome[key] != old_outcome[key]]
        if differing:
            raise UserError(
                f"{path}: this folder's run has another {', '.join(differing)}; use another folder"
            )
    run_folder.write_json(path, config_dict(config))


# --- The command ----------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command_line.Parser(
        "python -m dreamer.train", description="Train one agent in a folder.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--folder", type=Path, metavar="DIR", help="default: training/TASK-PRESET-sSEED")
    add("--preset", choices=sorted(PRESETS), default="published", help="default: published")
    for field in dataclasses.fields(Config):
        if field.name != "preset":
            about = str(field.metadata["about"]).replace("%", "%%")
            add(f"--{field.name}", type=_values[str(field.type)], metavar="VALUE", help=about,
                required=field.name == "task", default=argparse.SUPPRESS)  # fmt: skip
    return parser.parse_args(arguments)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


_values: dict[str, Callable[[str], Any]] = {
    "int": float,  # 2e6 is a whole number, too
    "float": float,
    "str": str,
    "bool": _truth,
}


def run(options: argparse.Namespace) -> int:
    """Trains; Ctrl-C stops in order, and the same command continues. Returns the exit code."""
    settings = {key: value for key, value in vars(options).items() if key != "folder"}
    config = make_config(settings.pop("preset"), settings)
    check_task(config.task)
    name = f"{config.task}-{config.preset}-s{config.seed}".replace(":", "-").replace("/", "-")
    folder = options.folder or Path("training", name)
    stopped = threading.Event()

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one stops at once
        stopped.set()

    def log(record: Record) -> None:
        if record["kind"] == "evaluate":
            value = f"return {record['evaluate_return']:.1f}"
            print(f"{record['env_steps']:,}/{config.env_steps:,} env_steps: {value}", flush=True)

    print(f"training in {folder}; Ctrl-C stops, the same command continues", flush=True)
    signal.signal(signal.SIGINT, stop)
    summary = train(config, folder, log, stopped.is_set)
    done = summary.status == Status.COMPLETED
    print(f"{'done' if done else 'stopped'}: python -m dreamer.evaluate {folder}")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(command_line.main(parse, run, None))
