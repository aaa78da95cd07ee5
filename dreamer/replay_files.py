"""Episodes on disk: append-only files, packed without loss, each part with a checksum.

    images.lz4        the pictures of each episode in blocks (packing.py)
    steps.f32         action, reward and terminal of each step: float32 [T, A + 2] per episode
    episodes.jsonl    one line per episode: its first step, its length, the sizes of its blocks
    images.zst        blocks of earlier runs, packed by zstandard: still read, never appended to
    images.u8         raw pictures of runs before them: the same

Each block holds a checksum; `table_crc32` in the index covers the steps, which are rows of the
table in replay.py.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer.config import IMAGE_SHAPE
from dreamer.errors import DamagedError
from dreamer.packing import BLOCK_STEPS, Unpack, pack, unpack, unpack_zstandard

IMAGE_BYTES = int(np.prod(IMAGE_SHAPE))
STEPS, INDEX = "steps.f32", "episodes.jsonl"
IMAGES, ZSTANDARD_IMAGES, RAW_IMAGES = "images.lz4", "images.zst", "images.u8"
UNPACK: dict[str, Unpack] = {IMAGES: unpack, ZSTANDARD_IMAGES: unpack_zstandard}
IMAGE_FILES = (RAW_IMAGES, ZSTANDARD_IMAGES, IMAGES)  # in the order in which runs wrote them
KEPT_FIRSTS = 500  # first pictures in memory, of the episodes that were read last
PACKED_IMAGE_BYTES = 5000  # at most, of 21 tasks (results/measured/replay_packing.csv)
CHECK_STEPS = 100  # pictures in memory at once while a replay is checked
RAW_KEYS = {"episode", "first", "steps"}
ZSTANDARD_KEYS = RAW_KEYS | {"columns", "table_crc32", "block_steps", "block_bytes"}
KEYS = {
    RAW_IMAGES: RAW_KEYS,
    ZSTANDARD_IMAGES: ZSTANDARD_KEYS,
    IMAGES: ZSTANDARD_KEYS | {"images"},
}


class Cursor(NamedTuple):
    """How much of a replay a checkpoint knows."""

    episodes: int
    agent_steps: int  # steps of the table, resets included


EMPTY = Cursor(0, 0)


class Entry(NamedTuple):
    """Where an episode is. Raw ones have no blocks and no checksum; their other fields are 0."""

    images: str  # its file
    first: int  # step, among those of all episodes
    steps: int
    columns: int  # A + 2
    table_crc32: int
    block_steps: int
    bounds: np.ndarray  # int64 [blocks + 1]: where blocks begin and end in the file

    @property
    def packed(self) -> bool:
        return self.images != RAW_IMAGES

    def block_of(self, step: int) -> int:
        return -(-step // self.block_steps)

    def steps_of(self, block: int) -> tuple[int, int]:
        """The first step of a block, and how many it holds."""
        if block == 0:
            return 0, 1
        first = 1 + (block - 1) * self.block_steps
        return first, min(self.block_steps, self.steps - first)


class ReplayFiles:
    """The files in a folder up to a cursor; what comes after it is cut off. Without a cursor, all
    that is there, only to be read.

    Raises DamagedError, before anything is cut, if they do not hold what was written.
    """

    def __init__(self, folder: Path, action_size: int = 0, cursor: Cursor | None = None):
        self.folder, self.columns = folder, action_size + 2
        self.entries: list[Entry] = []
        self._index_bytes = 0
        self._files: dict[str, int] = {}
        self._first = functools.lru_cache(KEPT_FIRSTS)(self._read_first)
        try:
            self._open(reading=cursor is None)
            self._restore(cursor)
        except BaseException:
            self.close()
            raise

    def cursor(self) -> Cursor:
        if not self.entries:
            return EMPTY
        return Cursor(len(self.entries), self.entries[-1].first + self.entries[-1].steps)

    def step_bytes(self) -> int:
        """Bytes on disk per step that was packed here, or before there are any, of the task whose
        pictures take most."""
        packed = self._steps_in(IMAGES)
        image_bytes = -(-self._bytes_of(IMAGES) // packed) if packed else PACKED_IMAGE_BYTES
        return image_bytes + 4 * self.columns

    def append(self, image: np.ndarray, table: np.ndarray) -> None:
        """Adds an episode: uint8 [T, 64, 64, 3] and float32 [T, A + 2]. After an error (the disk
        is full) the replay is what it was before."""
        begin, first = self._bytes_of(IMAGES), self.cursor().agent_steps
        blocks = list(pack(image))
        line = {
            "episode": len(self.entries),
            "images": IMAGES,
            "first": first,
            "steps": len(table),
            "columns": self.columns,
            "table_crc32": zlib.crc32(table.data.cast("B")),
            "block_steps": BLOCK_STEPS,
            "block_bytes": [len(block) for block in blocks],
        }
        text = (json.dumps(line) + "\n").encode()
        self._write(IMAGES, b"".join(blocks), begin)
        self._write(STEPS, table.data.cast("B"), first * 4 * self.columns)
        self._write(INDEX, text, self._index_bytes)  # last: what the index names is there
        self._index_bytes += len(text)
        self.entries.append(_entry(line, begin))

    def read_images(self, number: int, first: int, out: np.ndarray) -> None:
        """Fills `out`, uint8 [L, 64, 64, 3], with an episode's pictures from its step `first` on.
        Raises DamagedError. Several threads may read at once."""
        entry = self.entries[number]
        if not entry.packed:
            offset = (entry.first + first) * IMAGE_BYTES
            out.data.cast("B")[:] = self._read(RAW_IMAGES, out.nbytes, offset)
            return
        blocks = range(entry.block_of(first), entry.block_of(first + len(out) - 1) + 1)
        bounds = entry.bounds[blocks[0] : blocks[-1] + 2].tolist()
        packed = memoryview(self._read(entry.images, bounds[-1] - bounds[0], bounds[0]))
        unpack = UNPACK[entry.images]
        try:
            picture = self._first(number)
            filled = 0
            for block, begin, end in zip(blocks, bounds, bounds[1:], strict=False):
                at, steps = entry.steps_of(block)
                skipped, left = max(first - at, 0), len(out) - filled
                data = packed[begin - bounds[0] : end - bounds[0]]
                if block == 0:
                    out[0] = np.frombuffer(picture, np.uint8).reshape(IMAGE_SHAPE)
                elif skipped or steps > left:
                    images = np.empty((steps, *IMAGE_SHAPE), np.uint8)
                    unpack(images, data, picture)
                    out[filled : filled + steps - skipped] = images[skipped : skipped + left]
                else:
                    unpack(out[filled : filled + steps], data, picture)
                filled += min(steps - skipped, left)
        except ValueError as error:
            raise self._damaged(entry.images, f"episode {number} is damaged ({error})") from None

    def _read_first(self, number: int) -> bytes:
        """An episode's first picture. Raises ValueError."""
        entry = self.entries[number]
        begin, end = entry.bounds[:2].tolist()
        image = np.empty((1, *IMAGE_SHAPE), np.uint8)
        UNPACK[entry.images](image, self._read(entry.images, end - begin, begin), b"")
        return image.tobytes()

    def read_table(self, number: int) -> np.ndarray:
        """An episode's actions, rewards and terminals, float32 [T, A + 2]. Raises DamagedError."""
        entry, row_bytes = self.entries[number], 4 * self.columns
        data = self._read(STEPS, entry.steps * row_bytes, entry.first * row_bytes)
        if entry.packed and zlib.crc32(data) != entry.table_crc32:
            raise self._damaged(STEPS, f"episode {number} is damaged (its checksum differs)")
        return np.frombuffer(data, np.float32).reshape(entry.steps, self.columns).copy()

    def check_images(self, number: int) -> None:
        """Raises DamagedError if an episode's pictures are not those that were written. Of raw ones
        only the size is known."""
        entry = self.entries[number]
        if not entry.packed:
            self._read(RAW_IMAGES, 1, (entry.first + entry.steps) * IMAGE_BYTES - 1)
            return
        for at in range(0, entry.steps, CHECK_STEPS):
            count = min(CHECK_STEPS, entry.steps - at)
            self.read_images(number, at, np.empty((count, *IMAGE_SHAPE), np.uint8))

    def flush(self) -> None:
        """Returns when everything appended is on the disk itself."""
        for descriptor in self._files.values():
            os.fsync(descriptor)

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)

    def _open(self, reading: bool) -> None:
        names = [INDEX, STEPS, *IMAGE_FILES]
        if not reading:
            self.folder.mkdir(parents=True, exist_ok=True)
            earlier = (RAW_IMAGES, ZSTANDARD_IMAGES)
            names = [n for n in names if n not in earlier or (self.folder / n).exists()]
        for name in names:
            flags = os.O_RDONLY if reading else os.O_RDWR | os.O_CREAT
            with contextlib.suppress(FileNotFoundError):  # named where it is read
                # Not blocking: a pipe in its place would keep the process waiting.
                self._files[name] = os.open(self.folder / name, flags | os.O_NONBLOCK, 0o666)
                if not stat.S_ISREG(os.fstat(self._files[name]).st_mode):
                    raise self._damaged(name, "it is no file")

    def _restore(self, cursor: Cursor | None) -> None:
        if INDEX not in self._files:
            raise self._damaged(INDEX, "missing")
        index = self._read(INDEX, self._size(INDEX), 0)
        lines = [line for line in index.splitlines(keepends=True) if line.endswith(b"\n")]
        if cursor is not None:
            del lines[cursor.episodes :]
        self.entries = self._entries(lines)
        self._index_bytes = sum(map(len, lines))
        if cursor is None:
            self.columns = self.entries[-1].columns if self.entries else 0
        elif self.cursor() != cursor:
            raise self._damaged(INDEX, f"holds less than the checkpoint's {cursor}")
        if any(entry.packed and entry.columns != self.columns for entry in self.entries):
            raise self._damaged(INDEX, "its actions differ in size")
        for number in range(len(self.entries)):
            self.check_images(number)
            self.read_table(number)
        if cursor is not None:
            self._cut()

    def _entries(self, lines: Iterable[bytes]) -> list[Entry]:
        """The episodes of an index, each as it follows from those before it."""
        entries: list[Entry] = []
        for number, line in enumerate(lines):
            before = entries[-1] if entries else None
            first = before.first + before.steps if before else 0
            try:
                entry = _entry(_checked(json.loads(line), number, first))
            except (ValueError, RecursionError):
                raise self._damaged(INDEX, f"line {number + 1} is damaged") from None
            if before and entry.images == before.images:
                entry = entry._replace(bounds=entry.bounds + before.bounds[-1])
            elif before and IMAGE_FILES.index(entry.images) < IMAGE_FILES.index(before.images):
                raise self._damaged(INDEX, f"line {number + 1} is of an earlier kind")
            entries.append(entry)
        return entries

    def _cut(self) -> None:
        sizes = {
            INDEX: self._index_bytes,
            STEPS: self.cursor().agent_steps * 4 * self.columns,
            IMAGES: self._bytes_of(IMAGES),
            ZSTANDARD_IMAGES: self._bytes_of(ZSTANDARD_IMAGES),
            RAW_IMAGES: self._steps_in(RAW_IMAGES) * IMAGE_BYTES,
        }
        for name, descriptor in self._files.items():
            if self._size(name) > sizes[name]:
                os.truncate(descriptor, sizes[name])

    def _bytes_of(self, images: str) -> int:
        """Where the blocks of the last episode in a file end."""
        of_file = (entry for entry in reversed(self.entries) if entry.images == images)
        return int(next((entry.bounds[-1] for entry in of_file), 0))

    def _steps_in(self, images: str) -> int:
        return sum(entry.steps for entry in self.entries if entry.images == images)

    def _size(self, name: str) -> int:
        return os.fstat(self._files[name]).st_size if name in self._files else 0

    def _write(self, name: str, data: bytes | memoryview, offset: int) -> None:
        rest = memoryview(data)
        try:
            while rest:
                written = os.pwrite(self._files[name], rest, offset)
                rest, offset = rest[written:], offset + written
        except OSError as error:
            error.filename = str(self.folder / name)
            raise

    def _read(self, name: str, count: int, offset: int) -> bytes:
        """`count` bytes of a file. Checks first that they are there: a damaged index may ask for
        more than fits into memory.
        """
        if self._size(name) < offset + count:
            raise self._damaged(name, "missing, or shorter than the index says")
        parts = []
        while count:
            part = os.pread(self._files[name], count, offset)
            if not part:
                raise self._damaged(name, "it was cut while it was read")
            parts.append(part)
            count, offset = count - len(part), offset + len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _damaged(self, name: str, what: str) -> DamagedError:
        return DamagedError(f"{self.folder / name}: {what}")


def check_folder(folder: Path) -> None:
    """Reads a whole replay; raises DamagedError for what is not as it was written. Changes nothing.
    An index that ends within a line was being written: that episode does not count yet."""
    ReplayFiles(folder).close()


def _checked(line: Any, number: int, first: int) -> dict[str, Any]:
    """A line of the index; raises ValueError if it is not what line `number` must be."""
    if not isinstance(line, dict):
        raise ValueError("no object")
    images = line.get("images", ZSTANDARD_IMAGES if "columns" in line else RAW_IMAGES)
    if not isinstance(images, str) or line.keys() != KEYS.get(images):
        raise ValueError("other fields")
    sizes = line.get("block_bytes", [])
    numbers = [line[key] for key in line.keys() - {"images", "block_bytes"}]
    if not isinstance(sizes, list) or not all(type(n) is int for n in [*numbers, *sizes]):
        raise ValueError("no whole numbers")
    steps = line["steps"]
    if (line["episode"], line["first"]) != (number, first) or not 0 < steps < 2**40:
        raise ValueError("not in order")
    if images == RAW_IMAGES:
        return line
    if min(line["block_steps"], line["columns"] - 1, *sizes, 1) < 1:
        raise ValueError("no block")
    if len(sizes) != 1 + -(-(steps - 1) // line["block_steps"]) or max(sizes) >= 2**40:
        raise ValueError("other blocks")
    return {**line, "images": images}


def _entry(line: dict[str, Any], begin: int = 0) -> Entry:
    return Entry(
        images=line.get("images", RAW_IMAGES),
        first=line["first"],
        steps=line["steps"],
        columns=line.get("columns", 0),
        table_crc32=line.get("table_crc32", 0),
        block_steps=line.get("block_steps", 0),
        bounds=np.cumsum([begin, *line.get("block_bytes", ())]),
    )
