"""Episodes in, batches out; on disk as it grows. The one place where time is aligned:

    step t       0        1        2       ...      T-1
    image        o_0      o_1      o_2     ...      o_{T-1}
    action       0        a_0      a_1     ...      a_{T-2}     the action that led to the image
    reward       0        r_1      r_2     ...      r_{T-1}     the reward that came with the image
    terminal     0        0        0       ...      0 or 1      1: the task ended at the image

Nobody else shifts. A batch is a window of L steps of this table, for each of its B sequences.

Pictures stay on disk, packed (replay_files.py), and are read into each batch; the kernel's page
cache keeps as many of them in memory as there is room for, so a run's own memory stays bounded
however long it is. A GPU with room for all of them holds a copy (`DeviceReplay`), from which the
same batches come.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer.config import IMAGE_SHAPE, Config
from dreamer.errors import UserError
from dreamer.replay_files import (
    EMPTY,
    IMAGE_BYTES,
    KEPT_FIRSTS,
    PACKED_IMAGE_BYTES,
    Cursor,
    ReplayFiles,
)

MAX_THREADS = 8  # that unpack a batch
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


class Forecast(NamedTuple):
    steps: int  # of the table, at the run's full budget
    disk_bytes: int  # packed, of the task whose pictures take most
    raw_bytes: int  # in memory: what a copy on a GPU takes
    memory_bytes: int  # of replay in the process: everything but pixels, and two batches


class Replay:
    """Grows by whole episodes; samples uniformly over episodes, then positions (released code).

    Begins with what `cursor` knows of the folder's files, by default nothing; what was collected
    later is cut off, since a policy that does not exist yet collected it. Raises DamagedError if
    the files hold less, or not what was written. Episodes shorter than L are kept but cannot be
    sampled.
    """

    def __init__(self, folder: Path, action_size: int, length: int, cursor: Cursor = EMPTY):
        self.length = length
        self.action_size = action_size
        self._files = ReplayFiles(folder, action_size, cursor)
        self._tables = [self._files.read_table(n) for n in range(cursor.episodes)]
        self._samplable = [n for n, table in enumerate(self._tables) if len(table) >= length]
        self._count = min(torch.get_num_threads(), MAX_THREADS)  # of threads
        self._threads = ThreadPoolExecutor(self._count, "replay")

    @property
    def step_bytes(self) -> int:
        """Bytes in memory per step of the table."""
        return IMAGE_BYTES + 4 * (self.action_size + 2)

    def cursor(self) -> Cursor:
        return self._files.cursor()

    def disk_bytes(self, steps: int) -> int:
        """What so many more steps will take on disk, judged by the steps before."""
        return steps * self._files.step_bytes()

    def append(self, episode: Episode) -> None:
        """Adds an episode, on disk and for sampling. After an error (the disk is full) the replay
        is what it was before."""
        steps = len(episode.reward)
        if not steps == len(episode.image) == len(episode.action) == len(episode.terminal):
            raise ValueError("an episode's image, action, reward and terminal differ in length")
        columns = [episode.action, episode.reward[:, None], episode.terminal[:, None]]
        table = np.concatenate(columns, 1, dtype=np.float32)
        # A thread has a heap of its own: on the main one the packer's large buffers, freed between
        # batches and tables that stay, leave holes of a megabyte per episode.
        self._threads.submit(self._files.append, episode.image, table).result()
        if steps >= self.length:
            self._samplable.append(len(self._tables))
        self._tables.append(table)

    def sample(self, generator: np.random.Generator, batch_size: int) -> Batch:
        """`batch_size` windows of L steps. Raises UserError if no episode is that long, and
        DamagedError for pictures that are not those that were written."""
        image = torch.empty(batch_size, self.length, *IMAGE_SHAPE, dtype=torch.uint8)
        windows = self.draw(generator, batch_size)
        pictures = image.numpy()

        def read(first: int) -> None:
            for row in range(first, batch_size, self._count):
                self._files.read_images(*windows[row], pictures[row])

        list(self._threads.map(read, range(self._count)))  # one task each: starting them takes time
        table = np.stack([self._tables[e][first : first + self.length] for e, first in windows])
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
        """Where an episode begins, in steps of all episodes."""
        return self._files.entries[episode].first

    def read(self, episode: int) -> tuple[Tensor, Tensor]:
        """A whole episode: uint8 [T, 64, 64, 3] and its table [T, A + 2]."""
        table = self._tables[episode]
        image = torch.empty(len(table), *IMAGE_SHAPE, dtype=torch.uint8)
        self._files.read_images(episode, 0, image.numpy())
        return image, torch.from_numpy(table)

    def flush(self) -> None:
        """Returns when everything appended is on the disk itself."""
        self._files.flush()

    def close(self) -> None:
        self._threads.shutdown()
        self._files.close()


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


def on_device(replay: Replay, raw_bytes: int, device: torch.device) -> Replay | DeviceReplay:
    """What to sample from: a copy on the GPU if it has room for the whole run's replay beside
    training; else, with a line that says so, and on a CPU always, the replay itself."""
    if device.type != "cuda":
        return replay
    free, _ = torch.cuda.mem_get_info(device)
    if raw_bytes > free - TRAINING_BYTES:
        print(
            f"warning: replay will need {raw_bytes / 1e9:.1f} GB and the GPU has "
            f"{free / 1e9:.1f} GB, of which {TRAINING_BYTES / 1e9:.1f} GB are for training; "
            "batches come from disk, slower",
            file=sys.stderr,
        )
        return replay
    return DeviceReplay(replay, raw_bytes // replay.step_bytes, device)


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
    """What a run's replay needs at its full budget, if its episodes are full."""
    limit = config.time_limit_env_steps
    episodes = max(config.seed_episodes, -(-config.env_steps // limit))
    steps = episodes * (-(-limit // config.action_repeat) + 1)
    batch = config.batch_size * config.length * IMAGE_BYTES
    table = steps * 4 * (action_size + 2)
    firsts = min(episodes, KEPT_FIRSTS) * IMAGE_BYTES
    return Forecast(
        steps=steps,
        disk_bytes=steps * PACKED_IMAGE_BYTES + table,
        raw_bytes=steps * IMAGE_BYTES + table,
        memory_bytes=table + firsts + 2 * batch,
    )
