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
memory as there is room for, so a run's own memory stays bounded however long it is. A GPU with
room for all of them holds a copy (`DeviceReplay`), from which the same batches come.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer.config import IMAGE_SHAPE, Config
from dreamer.errors import UserError

IMAGE_BYTES = int(np.prod(IMAGE_SHAPE))
TRAINING_BYTES = 16 * 2**30  # of a GPU's memory that are kept free for all but replay


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
        self.action_size = action_size
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
        image = torch.empty(batch_size, self.length, *IMAGE_SHAPE, dtype=torch.uint8)
        table = np.empty((batch_size, self.length, self.action_size + 2), np.float32)
        for row, (episode, first) in enumerate(self.draw(generator, batch_size)):
            table[row] = self._tables[episode][first : first + self.length]
            _read(self._images, image[row].numpy(), (self._starts[episode] + first) * IMAGE_BYTES)
        return _batch(image, torch.from_numpy(table))

    def draw(self, generator: np.random.Generator, batch_size: int) -> list[tuple[int, int]]:
        """Where windows begin: (episode, step in it). Raises like `sample`."""
        if not self._samplable:
            raise UserError(
                f"length: none of the {len(self._tables)} episodes has {self.length} agent_steps; "
                "set a smaller length or a larger seed_min_env_steps"
            )
        windows = []
        for _ in range(batch_size):
            episode = self._samplable[generator.integers(len(self._samplable))]
            first = int(generator.integers(len(self._tables[episode]) - self.length + 1))
            windows.append((episode, first))
        return windows

    @property
    def short_episodes(self) -> int:
        """Episodes of fewer than L steps, which are never sampled."""
        return len(self._tables) - len(self._samplable)

    def first_step(self, episode: int) -> int:
        """Where an episode begins in the files, in steps of the table."""
        return self._starts[episode]

    def read(self, episode: int) -> tuple[Tensor, Tensor]:
        """A whole episode: uint8 [T, 64, 64, 3] and its table [T, A + 2]."""
        table = self._tables[episode]
        image = torch.empty(len(table), *IMAGE_SHAPE, dtype=torch.uint8)
        _read(self._images, image.numpy(), self._starts[episode] * IMAGE_BYTES)
        return image, torch.from_numpy(table)

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
            table = np.empty((entry["steps"], self.action_size + 2), np.float32)
            _read(self._steps, table, entry["first"] * self._row_bytes)
            self._register(entry["first"], table)

    def _register(self, first: int, table: np.ndarray) -> None:
        if len(table) >= self.length:
            self._samplable.append(len(self._tables))
        self._starts.append(first)
        self._tables.append(table)


class DeviceReplay:
    """A copy of a replay in a device's memory: batches come without a way over the host.

    `capacity_steps` of the table are allocated at once. A replay that outgrows them (many short
    episodes) is read from disk again.
    """

    def __init__(self, replay: Replay, capacity_steps: int, device: torch.device):
        self.replay, self.capacity_steps = replay, capacity_steps
        columns = replay.action_size + 2
        self._image = torch.empty(capacity_steps, *IMAGE_SHAPE, dtype=torch.uint8, device=device)
        self._table = torch.empty(capacity_steps, columns, device=device)
        self._window = torch.arange(replay.length, device=device)
        self._copied = 0  # episodes

    def sample(self, generator: np.random.Generator, batch_size: int) -> Batch:
        """The batch that `Replay.sample` gives, bit for bit."""
        if self.replay.cursor().agent_steps > self.capacity_steps:
            return self.replay.sample(generator, batch_size)
        self._follow()
        windows = self.replay.draw(generator, batch_size)
        begins = torch.tensor([self.replay.first_step(e) + first for e, first in windows])
        steps = begins.to(self._window.device, non_blocking=True)[:, None] + self._window
        return _batch(self._image[steps], self._table[steps])

    def _follow(self) -> None:
        """Copies what was appended since."""
        while self._copied < self.replay.cursor().episodes:
            image, table = self.replay.read(self._copied)
            first = self.replay.first_step(self._copied)
            self._image[first : first + len(image)] = image.to(self._image.device)
            self._table[first : first + len(table)] = table.to(self._table.device)
            self._copied += 1


def on_device(replay: Replay, forecast_bytes: int, device: torch.device) -> Replay | DeviceReplay:
    """What to sample from: a copy on the GPU if it has room for the whole run's replay beside
    training; else, with a line that says so, and on a CPU always, the replay itself."""
    if device.type != "cuda":
        return replay
    free, _ = torch.cuda.mem_get_info(device)
    if forecast_bytes > free - TRAINING_BYTES:
        print(
            f"warning: replay will need {forecast_bytes / 1e9:.1f} GB and the GPU has "
            f"{free / 1e9:.1f} GB, of which {TRAINING_BYTES / 1e9:.1f} GB are for training; "
            "batches come from disk, slower",
            file=sys.stderr,
        )
        return replay
    return DeviceReplay(replay, forecast_bytes // replay.step_bytes, device)


def _batch(image: Tensor, table: Tensor) -> Batch:
    """From images and tables [B, L, A + 2], whose columns are action, reward and terminal."""
    action, reward, terminal = table.split([table.shape[-1] - 2, 1, 1], -1)
    return Batch(
        image,
        action.contiguous(),
        reward.squeeze(-1).contiguous(),
        terminal.squeeze(-1).contiguous(),
    )


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
