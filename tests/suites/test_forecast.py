"""The plan: peak disk, memory from measurements, and what is not known."""

import csv
from pathlib import Path

import pytest
from helpers import SUITE, small_disk, suite_file

from dreamer.replay_files import PACKED_IMAGE_BYTES
from suites import forecast, run
from suites.language.axes import TASK_SETS
from suites.language.suite import Run, expand

CHECKPOINT_MB = 5.1  # of the preset `tiny`


def plan(runs: list[Run], workers: int, done: int | None = None, device: str = "cpu"):
    status = None if done is None else {"env_steps": done}
    state = "missing" if done is None else "stopped"
    return forecast.make_forecast(runs, {r.run_id: (state, status) for r in runs}, device, workers)


def test_the_disk_at_its_peak_follows_how_long_replay_is_kept(tmp_path):
    runs = expand(suite_file(tmp_path, SUITE), {"seeds": 5, "env_steps": 100_000}).runs
    each = forecast.replay_bytes(runs[0].config, 100_000) / 1e9
    kept = 5 * forecast.CHECKPOINTS * CHECKPOINT_MB / 1e3
    staying = [r._replace(config={**r.config, "keep_replay": "always"}) for r in runs]
    assert plan(staying, 2).disk_gb == pytest.approx(5 * each + kept)
    passing = runs  # the default: until a run is done
    assert plan(passing, 2).disk_gb == pytest.approx(2 * each + kept)
    assert plan(passing, 9).disk_gb == pytest.approx(5 * each + kept)
    assert plan(passing, 2, done=75_000).disk_gb == pytest.approx(2 * each / 4)


def test_a_plan_takes_the_least_ratio_that_was_measured():
    with open(forecast.REPLAY.with_name("replay_packing.csv"), newline="") as file:
        measured = [row for row in csv.DictReader(file) if row["dictionary"] == "chosen"]
    tasks = {(row["task"], row["behaviour"].split()[0]) for row in measured}
    assert tasks >= {(t, b) for t in TASK_SETS["control_suite"] for b in ("random", "smooth")}
    for row in measured:
        config = {"task": row["task"], "action_repeat": 1}
        ratio = forecast.IMAGE_BYTES / forecast.replay_bytes(config, 1)
        assert ratio <= float(row["ratio"])
        assert forecast.IMAGE_BYTES / float(row["ratio"]) <= PACKED_IMAGE_BYTES


def test_a_disk_that_is_too_small_is_told_before_anything_starts(tmp_path, capsys):
    suite, results = suite_file(tmp_path, SUITE), tmp_path / "results"
    words = [str(suite), "--results", str(results), "--set", "env_steps=1e12"]
    assert run.main([*words, "--plan"]) == 0
    assert "too small" in capsys.readouterr().out
    assert run.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "at their peak" in error and not results.exists()


def test_a_small_disk_is_told_in_sizes_that_say_something(tmp_path, capsys):
    suite = suite_file(tmp_path, SUITE)
    with small_disk(tmp_path / "disk", 8) as disk:
        assert run.main([str(suite), "--results", str(disk / "results")]) == 2
    error = capsys.readouterr().err
    assert "8.4 MB are free" in error and " 0.0 " not in error


def test_memory_is_measured_and_grows_with_the_batch(tmp_path):
    path = suite_file(tmp_path, SUITE)
    text = path.read_text().replace("batch_size: 4\n", "").replace("length: 10\n", "")
    runs = expand(suite_file(tmp_path, text)).runs
    (row,) = [
        r for r in forecast._table(forecast.MEMORY)
        if (r["preset"], r["behaviour"], r["device"]) == ("tiny", "dreamer", "cpu")
    ]  # fmt: skip
    assert float(row["checkpoint_mb"]) == CHECKPOINT_MB
    assert plan(runs, 1).memory_gb == pytest.approx(float(row["peak_gb"]))
    start, peak = float(row["start_gb"]), float(row["peak_gb"])
    larger = [r._replace(config={**r.config, "batch_size": 100}) for r in runs]
    assert plan(larger, 1).memory_gb == pytest.approx(start + 10 * (peak - start))
    on_gpu = plan(runs, 1, device="gpu")
    assert on_gpu.memory_gb is None
    assert any("never measured on a GPU" in note for note in on_gpu.notes)


def test_domains_that_were_not_measured_are_named_and_counted_raw(tmp_path):
    runs = expand(suite_file(tmp_path, SUITE), {"task": "my_module:make"}).runs
    assert "disk: replay of my_module not measured, counted raw" in plan(runs, 1).notes
    assert forecast.free_gb(Path(tmp_path) / "not" / "there") > 0
