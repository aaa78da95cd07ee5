"""Replay: what goes in comes out, aligned and sampled uniformly, and also from disk."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, python

from dreamer.config import make_config
from dreamer.errors import DamagedError, UserError
from dreamer.replay import Batch, DeviceReplay, Episode, Replay, forecast, on_device
from dreamer.replay_files import IMAGE_BYTES, Cursor, check_folder


def counting_episode(number: int, steps: int) -> Episode:
    """Image t of episode e is filled with e and begins with t; action and reward hold both too."""
    image = np.full((steps, 64, 64, 3), number, np.uint8)
    image[:, 0, 0, 0] = np.arange(steps)
    action = np.stack([np.full(steps, number), np.arange(steps)], -1).astype(np.float32)
    reward = (1000 * number + np.arange(steps)).astype(np.float32)
    terminal = np.zeros(steps, np.float32)
    terminal[-1] = 1
    return Episode(image, action, reward, terminal)


def filled(folder: Path, lengths: list[int], window: int = 5) -> Replay:
    replay = Replay(folder, action_size=2, length=window)
    for number, steps in enumerate(lengths):
        replay.append(counting_episode(number, steps))
    return replay


def check_aligned(batch: Batch, lengths: list[int]) -> None:
    image = batch.image.numpy()
    number, time = image[:, :, 5, 5, 0], image[:, :, 0, 0, 0]
    assert (np.diff(time.astype(int), axis=1) == 1).all()
    assert (number == number[:, :1]).all()
    np.testing.assert_array_equal(batch.action.numpy(), np.stack([number, time], -1))
    np.testing.assert_array_equal(batch.reward.numpy(), 1000.0 * number + time)
    last = np.array(lengths)[number] - 1
    np.testing.assert_array_equal(batch.terminal.numpy(), time == last)


def test_batches_are_windows_of_one_episode_each(tmp_path):
    lengths = [9, 5, 30]
    replay = filled(tmp_path, lengths)
    batch = replay.sample(np.random.default_rng(0), 64)
    assert batch.image.shape == (64, 5, 64, 64, 3) and batch.action.shape == (64, 5, 2)
    check_aligned(batch, lengths)


def test_sampling_is_uniform_over_episodes_then_positions(tmp_path):
    lengths = [6, 9, 4]  # windows of 5: 2 positions, 5 positions, too short
    replay = filled(tmp_path, lengths)
    count = 6000
    batch = replay.sample(np.random.default_rng(1), count)
    first = batch.action[:, 0].numpy().astype(int)
    pairs, counts = np.unique(first, axis=0, return_counts=True)
    expected = {(0, t): 1 / 4 for t in range(2)} | {(1, t): 1 / 10 for t in range(5)}
    assert {tuple(pair) for pair in pairs.tolist()} == set(expected)
    for pair, seen in zip(pairs.tolist(), counts, strict=True):
        p = expected[tuple(pair)]
        assert abs(seen - count * p) < 5 * (count * p * (1 - p)) ** 0.5


def test_a_new_episode_is_in_the_next_batches(tmp_path):
    replay = filled(tmp_path, [20, 20])
    replay.append(counting_episode(2, 20))
    batch = replay.sample(np.random.default_rng(0), 60)
    assert 10 < (batch.action[:, 0, 0] == 2).sum() < 30  # 20 on average


def test_the_same_generator_gives_the_same_batch(tmp_path):
    replay = filled(tmp_path, [20, 20])
    a, b = (replay.sample(np.random.default_rng(3), 8) for _ in range(2))
    assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_a_reopened_replay_holds_the_same(tmp_path):
    lengths = [9, 5, 30]
    replay = filled(tmp_path, lengths)
    cursor = replay.cursor()
    before = replay.sample(np.random.default_rng(0), 16)
    replay.close()
    after = Replay(tmp_path, 2, 5, cursor).sample(np.random.default_rng(0), 16)
    assert all((x == y).all() for x, y in zip(before, after, strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_resuming_cuts_off_what_came_after_the_cursor(tmp_path):
    replay = filled(tmp_path, [9, 26])
    cursor = replay.cursor()
    before = contents(tmp_path)
    replay.append(counting_episode(2, 40))
    replay.close()
    with open(tmp_path / "episodes.jsonl", "a") as file:
        file.write('{"episode": 3, "fir')  # the process was killed while it wrote
    with open(tmp_path / "images.lz4", "ab") as file:
        file.write(b"half a block")
    resumed = Replay(tmp_path, 2, 5, cursor)
    assert resumed.cursor() == cursor == Cursor(2, 35)
    assert contents(tmp_path) == before
    resumed.append(counting_episode(2, 7))
    check_aligned(resumed.sample(np.random.default_rng(0), 64), [9, 26, 7])
    index = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [entry["first"] for entry in index] == [0, 9, 35]


def test_pictures_are_packed_and_come_back_whatever_they_are(tmp_path):
    """A still picture, noise, and lengths around those of blocks."""
    random = np.random.default_rng(0)
    replay = Replay(tmp_path, 0, 1)
    images = []
    for steps in (1, 2, 10, 11, 12, 21, 22, 150):
        still = np.broadcast_to(random.integers(0, 256, (64, 64, 3), np.uint8), (steps, 64, 64, 3))
        images += [still, random.integers(0, 256, (steps, 64, 64, 3), np.uint8)]
    for image in images:
        steps = len(image)
        replay.append(Episode(image, np.zeros((steps, 0)), np.zeros(steps), np.zeros(steps)))
    size = (tmp_path / "images.lz4").stat().st_size
    noise = sum(map(len, images)) // 2 * IMAGE_BYTES
    assert noise < size < 1.1 * noise + 8 * IMAGE_BYTES  # still pictures take hardly more than one
    for number, image in enumerate(images):
        assert np.array_equal(replay.read(number)[0], image)
    check_folder(tmp_path)


# Damage.


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["images.lz4", "steps.f32", "episodes.jsonl"])
def test_every_flipped_bit_is_found_and_nothing_is_cut(tmp_path, name):
    replay = filled(tmp_path / "whole", [9, 26, 6])
    cursor = replay.cursor()
    replay.close()
    size = (tmp_path / "whole" / name).stat().st_size
    check_folder(tmp_path / "whole")
    for number, place in enumerate(np.linspace(0, size - 1, 60).astype(int)):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        flip(folder / name, place)
        before = contents(folder)
        for read in (lambda f=folder: Replay(f, 2, 5, cursor), lambda f=folder: check_folder(f)):
            if name == "episodes.jsonl" and place == size - 1:  # no end of line: being written
                break
            with pytest.raises(
                DamagedError, match=rf"{folder}/.*; restore it from a copy, or .* --fresh"
            ):
                read()
        assert contents(folder) == before


def test_damage_while_a_run_goes_on_is_found_by_the_batch_that_reads_it(tmp_path):
    replay = filled(tmp_path, [30, 30])
    flip(tmp_path / "images.lz4", (tmp_path / "images.lz4").stat().st_size // 4)
    with pytest.raises(DamagedError, match=r"images\.lz4: episode 0 is damaged"):
        replay.sample(np.random.default_rng(0), 60)


@pytest.mark.parametrize(
    "line",
    [
        *("null", "[]", "3", '"episode"', "{}", "{", "[" * 100_000, "NaN", '{"episode": 1}'),
        '{"episode": 1, "first": 9, "steps": 26}',  # raw, after packed ones
        '{"episode": 1, "first": 9, "steps": 26, "columns": 4, "table_crc32": 0, '
        '"block_steps": 10, "block_bytes": [1, 1, 1, 1]}',  # zstandard's, after packed ones
        *(("images", "images.zst"), ("images", "images.u8"), ("images", "x"), ("images", 3)),
        *(("first", 8), ("first", -1), ("first", None), ("episode", 2), ("episode", True)),
        *(("steps", 0), ("steps", 10**12), ("steps", 10**400), ("steps", "26"), ("steps", 26.0)),
        *(("columns", 1), ("columns", 5), ("columns", 10**30), ("table_crc32", "0")),
        *(("block_steps", 0), ("block_steps", 5), ("block_steps", 10**30)),
        *(("block_bytes", 4), ("block_bytes", []), ("block_bytes", [10**15] * 4)),
        *(("block_bytes", [-1] * 4), ("block_bytes", [1, 1, 1, 1]), ("block_bytes", {})),
    ],
    ids=str,
)
def test_odd_lines_of_the_index_are_one_clear_error(tmp_path, line):
    replay = filled(tmp_path, [9, 26, 6])
    cursor = replay.cursor()
    replay.close()
    path = tmp_path / "episodes.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | dict([line])) if type(line) is tuple else line
    path.write_text("\n".join(lines) + "\n")
    for read in (lambda: Replay(tmp_path, 2, 5, cursor), lambda: check_folder(tmp_path)):
        with pytest.raises(
            DamagedError, match=rf"{tmp_path}/.*; restore it from a copy, or .* --fresh"
        ) as raised:
            read()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["images.lz4", "steps.f32", "episodes.jsonl"])
def test_files_that_are_missing_or_short_are_refused(tmp_path, name):
    replay = filled(tmp_path, [9, 6])
    cursor = replay.cursor()
    replay.close()
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedError):
        Replay(tmp_path, 2, 5, cursor)
    path.unlink()
    with pytest.raises(DamagedError):
        check_folder(tmp_path)


# Kills and full disks, in processes of their own.

FULL = """
import resource, sys
from pathlib import Path
from dreamer.replay import Replay
from test_replay import check_aligned, counting_episode, filled
import numpy as np

folder = Path(sys.argv[1])
replay = filled(folder, [9, 26])
cursor = replay.cursor()
room = (folder / "images.lz4").stat().st_size + 50_000
noise = counting_episode(2, 40)
noise.image[:] = np.random.default_rng(0).integers(0, 256, noise.image.shape)
resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
try:
    replay.append(noise)
except OSError as error:
    print(Path(error.filename).name)
assert (folder / "images.lz4").stat().st_size == room
check_aligned(replay.sample(np.random.default_rng(0), 32), [9, 26])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert replay.cursor() == cursor
replay.append(counting_episode(2, 12))  # someone made room
check_aligned(replay.sample(np.random.default_rng(1), 64), [9, 26, 12])
cursor = replay.cursor()
replay.close()
check_aligned(Replay(folder, 2, 5, cursor).sample(np.random.default_rng(2), 64), [9, 26, 12])
"""


def test_a_disk_that_fills_in_the_middle_of_a_block_loses_nothing(tmp_path):
    """A limit on a file's size stands for the full disk: the write stops within a block."""
    done = python(FULL, tmp_path)
    assert done.stdout.strip() == "images.lz4", done.stderr


KILLED = """
import sys
from pathlib import Path
from dreamer.replay import Replay
from helpers import killed_at
from test_replay import counting_episode, filled

folder = Path(sys.argv[1])
replay = filled(folder, [9, 26])
cursor = replay.cursor()
replay.close()
whole = {path.name: path.read_bytes() for path in folder.iterdir()}
number = 0
def go_on():
    Replay(folder, 2, 5, cursor).append(counting_episode(2, 30))
while killed_at(number, go_on, ("replay_files.py",)):
    number += 3
    if number % 7 == 0:  # each leaves something else behind
        Replay(folder, 2, 5, cursor).close()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
print(number)
"""


@pytest.mark.parametrize("name", ["images.lz4", "steps.f32", "episodes.jsonl"])
def test_a_pipe_in_place_of_a_file_is_damage_and_waits_for_nobody(tmp_path, name):
    replay = filled(tmp_path, [9])
    cursor = replay.cursor()
    replay.close()
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(DamagedError, match=rf"{name}: .*it is no file"):
        Replay(tmp_path, 2, 5, cursor)


@pytest.mark.slow
def test_a_kill_at_any_line_of_an_append_leaves_what_the_cursor_knows(tmp_path):
    done = python(KILLED, tmp_path)
    assert int(done.stdout) > 100, done.stderr


# Pictures of earlier runs.


def test_a_replay_packed_by_zstandard_is_read_and_continued(tmp_path):
    """Written at 2a02b62."""
    folder = shutil.copytree(ROOT / "tests" / "data" / "zstandard_replay", tmp_path / "replay")
    check_folder(folder)
    replay = Replay(folder, 2, 5, Cursor(2, 35))
    check_aligned(replay.sample(np.random.default_rng(0), 64), [9, 26])
    replay.append(counting_episode(2, 7))
    cursor = replay.cursor()
    replay.close()
    resumed = Replay(folder, 2, 5, cursor)
    check_aligned(resumed.sample(np.random.default_rng(0), 64), [9, 26, 7])
    resumed.close()
    assert {path.name for path in folder.iterdir()} >= {"images.zst", "images.lz4"}
    images = (folder / "images.zst").read_bytes()
    flip(folder / "images.zst", len(images) - 1)  # zstandard's checksum of the last block
    with pytest.raises(DamagedError, match=r"images\.zst: episode 1 is damaged"):
        check_folder(folder)
    (folder / "images.zst").write_bytes(images)
    Replay(folder, 2, 5, Cursor(1, 9)).close()  # a checkpoint before both
    assert (folder / "images.lz4").stat().st_size == 0
    assert images.startswith((folder / "images.zst").read_bytes())


def test_a_raw_replay_of_an_earlier_run_is_read_and_continued(tmp_path):
    with tarfile.open(ROOT / "tests" / "data" / "earlier_runs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.glob("results/runs/*-s1-*/replay")
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    cursor = Cursor(len(lines), sum(line["steps"] for line in lines))
    raw = np.fromfile(folder / "images.u8", np.uint8).reshape(-1, 64, 64, 3)
    steps = np.fromfile(folder / "steps.f32", np.float32).reshape(len(raw), -1)
    check_folder(folder)
    size = steps.shape[1] - 2
    replay = Replay(folder, size, 5, cursor)
    new = counting_episode(7, 23)
    replay.append(new._replace(action=np.zeros((23, size), np.float32)))
    cursor, before = replay.cursor(), replay.sample(np.random.default_rng(0), 40)
    replay.close()
    resumed = Replay(folder, size, 5, cursor)
    assert same(before, resumed.sample(np.random.default_rng(0), 40))
    for number, line in enumerate(lines):
        image, table = resumed.read(number)
        window = slice(line["first"], line["first"] + line["steps"])
        assert np.array_equal(image, raw[window]) and np.array_equal(table, steps[window])
    assert np.array_equal(resumed.read(len(lines))[0], new.image)
    check_folder(folder)
    with open(folder / "images.u8", "r+b") as file:
        file.truncate(raw.nbytes - 1)
    with pytest.raises(DamagedError, match=r"images\.u8"):
        check_folder(folder)


def test_too_short_episodes_are_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="set a smaller length"):
        filled(tmp_path, [4, 3]).sample(np.random.default_rng(0), 2)


def test_the_forecast_is_what_a_run_takes(tmp_path):
    config = make_config("tiny", {"env_steps": 800, "time_limit_env_steps": 100})
    told = forecast(config, 2)
    replay = Replay(tmp_path, 2, config.length)
    assert replay.disk_bytes(told.steps) == told.disk_bytes < told.raw_bytes / 2
    for number in range(8):
        replay.append(counting_episode(number, 51))
    taken = sum(path.stat().st_size for path in tmp_path.iterdir() if path.suffix != ".jsonl")
    assert taken <= replay.disk_bytes(told.steps) < taken + told.steps
    assert told.steps == replay.cursor().agent_steps == 8 * 51
    assert told.raw_bytes == told.steps * replay.step_bytes


# A copy on the device.


def same(a: Batch, b: Batch) -> bool:
    return all(
        x.dtype == y.dtype and x.stride() == y.stride() and torch.equal(x, y)
        for x, y in zip(a, b, strict=True)
    )


def test_the_copy_gives_the_same_batches_while_the_replay_grows_and_is_resumed(tmp_path):
    replay = filled(tmp_path, [9, 5, 30])
    copy = DeviceReplay(replay, 60, torch.device("cpu"))

    def agree(seed: int) -> bool:
        batches = [source.sample(np.random.default_rng(seed), 16) for source in (replay, copy)]
        return same(*batches)

    assert agree(0) and agree(1)
    replay.append(counting_episode(3, 10))
    assert agree(2)
    check_aligned(copy.sample(np.random.default_rng(3), 64), [9, 5, 30, 10])
    cursor = replay.cursor()
    replay.close()
    replay = Replay(tmp_path, 2, 5, cursor)
    copy = DeviceReplay(replay, 60, torch.device("cpu"))
    assert agree(4)
    replay.append(counting_episode(4, 7))  # more than fits into the copy
    assert agree(5)


def test_a_cpu_samples_from_the_files(tmp_path):
    replay = filled(tmp_path, [9])
    assert on_device(replay, 10**6, torch.device("cpu")) is replay


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_holds_a_copy_if_there_is_room(tmp_path, capsys):
    replay = filled(tmp_path, [9, 5, 30])
    device = torch.device("cuda")
    copy = on_device(replay, 60 * replay.step_bytes, device)
    assert isinstance(copy, DeviceReplay)
    ours = Batch(*(x.cpu() for x in copy.sample(np.random.default_rng(0), 16)))
    assert same(ours, replay.sample(np.random.default_rng(0), 16))
    assert on_device(replay, 10**15, device) is replay
    assert "batches come from disk" in capsys.readouterr().err


# Memory.


def test_the_forecast_of_a_whole_run():
    """5e6 env_steps: 5000 episodes of 501 steps of the table, each 12288 B and 8 floats."""
    told = forecast(make_config("published", {"task": "walker_walk"}), 6)
    assert told.raw_bytes == 5000 * 501 * (12288 + 32) == 30_861_600_000
    assert told.memory_bytes == 5000 * 501 * 32 + 500 * 12288 + 2 * 50 * 50 * 12288 < 170e6


FILL = """
import resource, sys
import numpy as np
from dreamer.config import make_config
from dreamer.replay import Episode, Replay, forecast

def held():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

config = make_config("tiny", {"env_steps": 20_000, "time_limit_env_steps": 200})
replay = Replay(__import__("pathlib").Path(sys.argv[1]), 2, config.length)
steps = 101
columns = [np.zeros((steps, 2), np.float32), *np.zeros((2, steps), np.float32)]
episode = Episode(np.ones((steps, 64, 64, 3), np.uint8), *columns)
replay.append(episode)
replay.sample(np.random.default_rng(0), config.batch_size)
before = held()
for number in range(99):
    replay.append(episode)
    replay.sample(np.random.default_rng(number), config.batch_size)
told = forecast(config, 2)
assert replay.cursor().agent_steps * replay.step_bytes == told.raw_bytes > 120e6
print(held() - before, told.memory_bytes)
"""


def test_replay_takes_no_more_memory_than_forecast(tmp_path):
    """In a process of its own, whose peak is known: 120 MB of pictures stay out of it."""
    command = [sys.executable, "-c", FILL, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    taken, told = map(int, done.stdout.split())
    assert taken <= told + 2e6
    assert told < 10e6
