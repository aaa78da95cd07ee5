"""Replay: what goes in comes out, aligned, uniformly, and from disk as well."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamer.config import make_config
from dreamer.errors import UserError
from dreamer.replay import (
    IMAGE_BYTES,
    Batch,
    Cursor,
    DeviceReplay,
    Episode,
    Replay,
    forecast,
    on_device,
)


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


def test_resuming_cuts_off_what_came_after_the_cursor(tmp_path):
    replay = filled(tmp_path, [9, 6])
    cursor = replay.cursor()
    replay.append(counting_episode(2, 40))
    replay.close()
    with open(tmp_path / "episodes.jsonl", "a") as file:
        file.write('{"episode": 3, "fir')  # the process was killed while it wrote
    with open(tmp_path / "images.u8", "ab") as file:
        file.write(b"half an image")
    resumed = Replay(tmp_path, 2, 5, cursor)
    assert resumed.cursor() == cursor == Cursor(2, 15)
    resumed.append(counting_episode(2, 7))
    check_aligned(resumed.sample(np.random.default_rng(0), 64), [9, 6, 7])
    assert (tmp_path / "images.u8").stat().st_size == 22 * IMAGE_BYTES
    index = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [entry["first"] for entry in index] == [0, 9, 15]


def test_files_shorter_than_the_cursor_are_refused(tmp_path):
    replay = filled(tmp_path, [9, 6])
    cursor = replay.cursor()
    replay.close()
    with open(tmp_path / "images.u8", "r+b") as file:
        file.truncate(10 * IMAGE_BYTES)
    with pytest.raises(ValueError, match="holds less"):
        Replay(tmp_path, 2, 5, cursor)


def test_too_short_episodes_are_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="set a smaller length"):
        filled(tmp_path, [4, 3]).sample(np.random.default_rng(0), 2)


def test_the_forecast_is_what_a_run_takes(tmp_path):
    config = make_config("tiny", {"env_steps": 800, "time_limit_env_steps": 100})
    replay = Replay(tmp_path, 2, config.length)
    for number in range(8):
        replay.append(counting_episode(number, 51))
    taken = sum(path.stat().st_size for path in tmp_path.iterdir() if path.suffix != ".jsonl")
    assert forecast(config, 2).disk_bytes == taken == 8 * 51 * replay.step_bytes


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
    replay.append(counting_episode(4, 7))  # more than the copy has room for
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
    assert told.disk_bytes == 5000 * 501 * (12288 + 32) == 30_861_600_000
    assert told.memory_bytes == 5000 * 501 * 32 + 2 * 50 * 50 * 12288 < 150e6


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
assert replay.cursor().agent_steps * replay.step_bytes == told.disk_bytes > 120e6
print(held() - before, told.memory_bytes)
"""


def test_replay_takes_no_more_memory_than_forecast(tmp_path):
    """In a process of its own, whose peak is known: pictures of 120 MB go to the disk."""
    command = [sys.executable, "-c", FILL, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    taken, told = map(int, done.stdout.split())
    assert taken <= told + 2e6
    assert told < 5e6
