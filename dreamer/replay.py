"""Episodes in, batches out; on disk as it grows. The one place where time is aligned:

    step t       0        1        2       ...      T-1
    image        o_0      o_1      o_2     ...      o_{T-1}
    action       0        a_0      a_1     ...      a_{T-2}     the action that led to the image
    reward       0        r_1      r_2     ...      r_{T-1}     the reward that came with the image
    terminal     0        0        0       ...      0 or 1      1: the task ended at the image

Nobody else shifts. A batch is a window of L steps of this table, for each of its B sequences.

The folder holds three append-only files: `images.u8` (raw pixels), `steps.f32` (action, reward and
terminal of each step) and `episodes.jsonl` (first step and length of each episode). Pixels stay on
disk and are read with `pread` into each batch; the kernel's page cache keeps as many of them in
memory as there is room for, so a run's own memory stays bounded however long it is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer.config import IMAGE_SHAPE, Config, UserError

IMAGE_BYTES = int(np.prod(IMAGE_SHAPE))


class Episode(NamedTuple):
    """T agent_steps in the table above, the first being the reset."""

    image: np.ndarray  # uint8 [T, 64, 64, 3]
    action: np.ndarray  # float32 [T, A]
    reward: np.ndarray  # float32 [T]
    terminal: np.ndarray  # float32 [T], 0 or 1


class Batch(NamedTuple):
    image: Tensor  # uint8 [B, L, 64, 64, 3]
    action: Tensor  # float32 [B, L, A]
    reward: Tensor  # float32 [B, L]
    terminal: Tensor  # float32 [B, L], 0 or 1


class Cursor(NamedTuple):
    """How much of a replay a checkpoint knows."""

    episodes: int
    agent_steps: int  # steps of the table, resets included


EMPTY = Cursor(0, 0)


class Forecast(NamedTuple):
    disk_bytes: int  # of a run's replay at its full budget
    memory_bytes: int  # of replay in the process: everything but pixels, and two batches


class Replay:
    """Grows by whole episodes; samples uniformly over episodes, then positions (released code).

    Begins with what `cursor` knows of the folder's files, by default nothing; what was collected
    later is cut off, since a policy that does not exist yet collected it. Raises ValueError if the
    files hold less. Episodes shorter than L are kept but cannot be sampled.
    """

    def __init__(self, folder: Path, action_size: int, length: int, cursor: Cursor = EMPTY):
        folder.mkdir(parents=True, exist_ok=True)
        self.length = length
        self._action_size = action_size
        self._row_bytes = 4 * (action_size + 2)
        self._index_path = folder / "episodes.jsonl"
        self._images = os.open(folder / "images.u8", os.O_RDWR | os.O_CREAT, 0o644)
        self._steps = os.open(folder / "steps.f32", os.O_RDWR | os.O_CREAT, 0o644)
        self._index = os.open(self._index_path, os.O_RDWR | os.O_CREAT, 0o644)
        self._starts: list[int] = []  # first step of each episode, in the files
        self._tables: list[np.ndarray] = []  # [T, A + 2] of each episode
        self._samplable: list[int] = []  # episodes of at least L steps
        self._restore(cursor)

    @property
    def step_bytes(self) -> int:
        """Bytes on disk per step of the table."""
        return IMAGE_BYTES + self._row_bytes

    def cursor(self) -> Cursor:
        if not self._tables:
            return EMPTY
        return Cursor(len(self._tables), self._starts[-1] + len(self._tables[-1]))

    def append(self, episode: Episode) -> None:
        """Adds an episode, on disk and for sampling."""
        steps = len(episode.reward)
        if not steps == len(episode.image) == len(episode.action) == len(episode.terminal):
            raise ValueError("an episode's image, action, reward and terminal differ in length")
        first = self.cursor().agent_steps
        columns = [episode.action, episode.reward[:, None], episode.terminal[:, None]]
        table = np.concatenate(columns, 1, dtype=np.float32)
        _write(self._images, np.ascontiguousarray(episode.image, np.uint8), first * IMAGE_BYTES)
        _write(self._steps, table, first * self._row_bytes)
        line = json.dumps({"episode": len(self._tables), "first": first, "steps": steps}) + "\n"
        os.lseek(self._index, 0, os.SEEK_END)
        os.write(self._index, line.encode())
        self._register(first, table)

    def sample(self, generator: np.random.Generator, batch_size: int) -> Batch:
        """`batch_size` windows of L steps. Raises UserError if no episode is that long."""
        if not self._samplable:
            raise UserError(
                f"length: none of the {len(self._tables)} episodes has {self.length} agent_steps; "
                "set a smaller length"
            )
        image = torch.empty(batch_size, self.length, *IMAGE_SHAPE, dtype=torch.uint8)
        table = np.empty((batch_size, self.length, self._action_size + 2), np.float32)
        for row, pixels in enumerate(image.numpy()):
            episode = self._samplable[generator.integers(len(self._samplable))]
            first = int(generator.integers(len(self._tables[episode]) - self.length + 1))
            table[row] = self._tables[episode][first : first + self.length]
            _read(self._images, pixels, (self._starts[episode] + first) * IMAGE_BYTES)
        action, reward, terminal = np.split(table, [self._action_size, self._action_size + 1], -1)
        return Batch(
            image,
            torch.from_numpy(np.ascontiguousarray(action)),
            torch.from_numpy(np.ascontiguousarray(reward[..., 0])),
            torch.from_numpy(np.ascontiguousarray(terminal[..., 0])),
        )

    def flush(self) -> None:
        """Returns when everything appended is on the disk itself."""
        for descriptor in (self._images, self._steps, self._index):
            os.fsync(descriptor)

    def close(self) -> None:
        for descriptor in (self._images, self._steps, self._index):
            os.close(descriptor)

    def _restore(self, cursor: Cursor) -> None:
        lines = self._index_path.read_bytes().splitlines(keepends=True)[: cursor.episodes]
        image_bytes, step_bytes = os.fstat(self._images).st_size, os.fstat(self._steps).st_size
        if (
            len(lines) < cursor.episodes
            or image_bytes < cursor.agent_steps * IMAGE_BYTES
            or step_bytes < cursor.agent_steps * self._row_bytes
        ):
            raise ValueError(f"replay in {self._index_path.parent} holds less than {cursor}")
        _cut(self._images, cursor.agent_steps * IMAGE_BYTES)
        _cut(self._steps, cursor.agent_steps * self._row_bytes)
        _cut(self._index, sum(len(line) for line in lines))
        self._starts, self._tables, self._samplable = [], [], []
        for line in lines:
            entry = json.loads(line)
            table = np.empty((entry["steps"], self._action_size + 2), np.float32)
            _read(self._steps, table, entry["first"] * self._row_bytes)
            self._register(entry["first"], table)

    def _register(self, first: int, table: np.ndarray) -> None:
        if len(table) >= self.length:
            self._samplable.append(len(self._tables))
        self._starts.append(first)
        self._tables.append(table)


def forecast(config: Config, action_size: int) -> Forecast:
    """Disk and memory that a run's replay needs at its full budget, if its episodes are full."""
    limit = config.time_limit_env_steps
    episodes = max(config.seed_episodes, -(-config.env_steps // limit))
    steps = episodes * (-(-limit // config.action_repeat) + 1)
    batch = config.batch_size * config.length * IMAGE_BYTES
    table = steps * 4 * (action_size + 2)
    return Forecast(steps * IMAGE_BYTES + table, table + 2 * batch)


def _cut(descriptor: int, size_bytes: int) -> None:
    """Shortens a file; one that is short enough stays untouched."""
    if os.fstat(descriptor).st_size > size_bytes:
        os.truncate(descriptor, size_bytes)


def _write(descriptor: int, array: np.ndarray, offset: int) -> None:
    data = array.data.cast("B")
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _read(descriptor: int, array: np.ndarray, offset: int) -> None:
    data = array.data.cast("B")
    while data:
        count = os.preadv(descriptor, [data], offset)
        if count == 0:
            raise OSError("replay files end before the data that their index names")
        data, offset = data[count:], offset + count
