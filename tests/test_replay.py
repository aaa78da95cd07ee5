"""Replay: what goes in comes out, aligned, uniformly, and from disk as well."""

import json
from pathlib import Path

import numpy as np
import pytest

from dreamer.config import UserError, make_config
from dreamer.replay import IMAGE_BYTES, Batch, Cursor, Episode, Replay, forecast


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
