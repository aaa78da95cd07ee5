"""Progress of running runs: a bar for each on a terminal, else a line from time to time."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Mapping
from typing import Any

from dreamer import run_folder
from dreamer.errors import counted
from dreamer.run_folder import Status, StatusRecord
from suites.execution.spec import Spec

LINE_EVERY_S = 30.0


def make_display(count: int) -> Display:
    return Bars(count) if sys.stderr.isatty() else Display(count)


class Display:
    """Shows how runs start, go on and end. This one is for logs: a line when a run starts and ends,
    and every LINE_EVERY_S in between."""

    def __init__(self, count: int):
        self.count, self.done = count, 0
        self._said: dict[str, float] = {}

    def started(self, spec: Spec) -> None:
        self._said[spec.run_id] = time.monotonic()
        self.say(f"start {spec.run_id}")

    def running(self, spec: Spec, status: StatusRecord) -> None:
        if time.monotonic() - self._said.get(spec.run_id, 0) > LINE_EVERY_S:
            self._said[spec.run_id] = time.monotonic()
            self.say(f"      {spec.run_id} {progress_text(spec, status)}")

    def ended(self, spec: Spec, status: StatusRecord, note: str) -> None:
        self.done += 1
        self.say(f"{ending_text(spec, status, note)} [{self.done}/{self.count}]")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Bars(Display):
    """For terminals: one bar for each running run, a line above for each that ended."""

    def __init__(self, count: int):
        from tqdm import tqdm

        super().__init__(count)
        self._tqdm = tqdm
        self._bars: dict[str, Any] = {}

    def started(self, spec: Spec) -> None:
        self._bars[spec.run_id] = self._tqdm(
            total=spec.config["env_steps"],
            desc=f"{name(spec.config)}  starting",
            bar_format="{percentage:3.0f}%|{bar:16}| {desc}",
            leave=False,
            dynamic_ncols=True,
        )

    def running(self, spec: Spec, status: StatusRecord) -> None:
        bar = self._bars[spec.run_id]
        bar.n = min(status.get("env_steps") or 0, bar.total)
        bar.set_description_str(f"{name(spec.config)}  {progress_text(spec, status)}")

    def ended(self, spec: Spec, status: StatusRecord, note: str) -> None:
        self._bars.pop(spec.run_id).close()
        super().ended(spec, status, note)

    def say(self, text: str) -> None:
        self._tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()


def name(config: dict[str, Any]) -> str:
    """A run in a few words."""
    parts = [config["task"], config["behaviour"]]
    if config["representation"] != "reconstruction":
        parts.append(config["representation"])
    return " ".join([*parts, f"s{config['seed']}"])


def progress_text(spec: Spec, status: StatusRecord) -> str:
    return " | ".join(progress(spec.config["env_steps"], status))


def progress(budget: int, status: Mapping[str, Any]) -> list[str]:
    """env_steps, updates, return, rate and time left, as far as they are known."""
    parts = [f"{status.get('env_steps') or 0:,}/{budget:,} env_steps"]
    if status.get("updates") is not None:
        parts.append(f"{status['updates']:,} updates")
    if status.get("evaluate_return") is not None:
        parts.append(f"last evaluation {status['evaluate_return']:.1f}")
    elif status.get("episode_return") is not None:
        parts.append(f"training return {status['episode_return']:.1f}")
    if status.get("env_steps_per_second"):
        parts.append(f"{status['env_steps_per_second']:.3g}/s")
    if status.get("seconds_left") is not None:
        parts.append(f"{datetime.timedelta(seconds=int(status['seconds_left']))} left")
    return parts


def final_text(status: StatusRecord) -> str:
    """A finished run's final score (suites/record/scores.py); empty where there is none."""
    score, count = status.get("final_score"), status.get("final_evaluations") or 0
    if score is None:
        return ""
    return f"final score {score:.1f} (mean of {counted(count, 'evaluation')})"


def ending_text(spec: Spec, status: StatusRecord, note: str) -> str:
    """How a run ended, and where to look if it went wrong."""
    recorded = status.get("status")
    if note:
        return f"skip  {note}"
    if recorded == Status.COMPLETED:
        return f"done  {spec.run_id} {final_text(status)}".rstrip()
    if recorded == Status.INTERRUPTED:
        return f"stop  {spec.run_id} at {status.get('env_steps') or 0:,} env_steps"
    see = run_folder.see(spec.folder, status.get("attempt"), run_folder.LOG)
    return f"FAIL  {spec.run_id}: {status.get('error') or 'it ended without a word'}{see}"
