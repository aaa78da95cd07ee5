"""status.json of a run: written at each heartbeat, with rate and time left."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from dreamer import run_folder
from dreamer.config import Config
from dreamer.errors import describe
from dreamer.run_folder import Status, StatusRecord
from suites.execution.spec import Spec
from suites.record.folder import taken_over

if TYPE_CHECKING:
    from dreamer.train import Progress

HEARTBEAT_S = 5.0
RATE_OVER_S = 120.0  # the rate is that of the attempt's later half, at least of so many seconds


class StatusFile:
    """status.json of the run, rewritten every HEARTBEAT_S by a thread of its own."""

    def __init__(
        self,
        spec: Spec,
        config: Config,
        attempt: int,
        code: str,
        before: StatusRecord,
        on_status: Callable[[StatusRecord], None],
    ):
        self._path = spec.folder / run_folder.STATUS
        self._on_status = on_status
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._first: Progress | None = None  # of this attempt
        self._latest: Progress | None = None
        self._clock_s = time.monotonic()  # at the last beat
        self._awake_s = 0.0  # since the start, without pauses
        self._seen: deque[tuple[float, int]] = deque()  # (time awake, env_steps)
        kept = ("env_steps", "updates", "episode_return", "evaluate_return")
        self.status: StatusRecord = {
            "run_id": spec.run_id,
            "status": Status.RUNNING,
            "attempt": attempt,
            "budget_env_steps": config.env_steps,
            **{key: before.get(key) for key in kept},
            "short_episodes": None,
            "env_steps_per_second": None,
            "seconds_left": None,
            "started": run_folder.now(),
            "heartbeat": run_folder.now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "executor": spec.executor,
            "device": None,
            "suites": spec.suites,
            "code": code,
            "error": None,
        }

    def progress(self, progress: Progress) -> None:
        """Keeps the progress for the next heartbeat; quick, since training calls it often."""
        self._first = self._first or progress
        self._latest = progress

    def beat(self) -> None:
        """One heartbeat."""
        with self._lock:
            self._take_latest()
        self._write()

    def _take_latest(self) -> None:
        self._count_time()
        latest = self._latest
        if latest is not None:
            self.status.update(
                env_steps=latest.env_steps,
                updates=latest.updates,
                updates_due=latest.updates_due,
                episode_return=latest.episode_return,
                evaluate_return=latest.evaluate_return,
                short_episodes=round(latest.short_episodes, 4),
            )
            self._estimate(latest.env_steps)

    def _estimate(self, env_steps: int) -> None:
        """Rate and time left, from the later half of the attempt: collecting and updating take
        turns, for minutes each in a slow run, and during the seed episodes there are no updates.
        """
        self._seen.append((self._awake_s, env_steps))
        long_s = max(RATE_OVER_S, self._awake_s / 2)
        while len(self._seen) > 2 and self._awake_s - self._seen[1][0] >= long_s:
            self._seen.popleft()
        seconds, steps = self._awake_s - self._seen[0][0], env_steps - self._seen[0][1]
        if seconds > 0 and steps > 0:
            rate = steps / seconds
            left = max(0, self.status["budget_env_steps"] - env_steps) / rate
            self.status.update(env_steps_per_second=round(rate, 2), seconds_left=round(left))

    def _count_time(self) -> None:
        """Adds the time since the last beat, unless the process was paused (by SIGSTOP, say)."""
        before, self._clock_s = self._clock_s, time.monotonic()
        if self._clock_s - before <= 6 * HEARTBEAT_S:
            self._awake_s += self._clock_s - before

    def finish(self, status: Status, **values: Any) -> None:
        """Writes the last status, with the rate over the whole attempt; no heartbeat follows."""
        self._ended.set()
        with self._lock:
            self._take_latest()
            if self._first is not None and self._latest is not None and self._awake_s > 0:
                steps = self._latest.env_steps - self._first.env_steps
                self.status["env_steps_per_second"] = round(steps / self._awake_s, 2)
            self.status.update(status=status, ended=run_folder.now(), seconds_left=None, **values)
        self._write(last=True)

    def _write(self, last: bool = False) -> None:
        with self._lock:
            if self._ended.is_set() and not last:
                return
            if taken_over(self._path.parent, self.status["attempt"]):
                return
            self.status["heartbeat"] = run_folder.now()
            copy = dict(self.status)
            try:
                run_folder.write_json(self._path, copy)
            except OSError as error:  # training itself stops at a full disk
                print(f"{self._path.name}: {describe(error)}", file=sys.stderr)
        self._on_status(copy)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Heartbeats while the block runs."""
        self._write()

        def loop() -> None:
            while not self._ended.wait(HEARTBEAT_S):
                try:
                    self.beat()
                except Exception as error:  # without a heartbeat the run would count as dead
                    print(f"heartbeat: {describe(error)}", file=sys.stderr)

        thread = threading.Thread(target=loop, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
