"""From records to a frame: what is read, what is skipped with a note, what the cache keeps."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

from analysis import synthetic
from analysis.read.files import FileSource, parse_metrics
from analysis.read.frame import FRAME_COLUMNS, load
from analysis.read.source import METRICS
from dreamer.config import config_dict, make_config


def config(**settings):
    return config_dict(make_config("tiny", {"task": "cartpole_balance", **settings}))


def write(results, run_id="run", lines=None, **settings):
    """A run whose record is `lines`; made-up values without them."""
    folder = synthetic.write_run(results, run_id, config(**settings))
    if lines is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder


def evaluation(env_steps, value):
    return {"kind": "evaluate", "env_steps": env_steps, "evaluate_return": value}


class CountingSource(FileSource):
    """A file source that remembers which runs were read."""

    def __init__(self, results):
        super().__init__(results)
        object.__setattr__(self, "reads", [])

    def read(self, run_id, metrics):
        self.reads.append(run_id)
        return super().read(run_id, metrics)


def test_frame_is_tidy(tmp_path):
    write(tmp_path, "a", [evaluation(10, 1.5), evaluation(20, 2.5)], seed=3)
    write(tmp_path, "b", [{"kind": "episode", "env_steps": 5, "episode_return": 7}], seed=4)
    frame, runs, warnings = load(FileSource(tmp_path), suite="s")
    assert tuple(frame.columns) == FRAME_COLUMNS
    rows = [tuple(row) for row in frame.itertuples(index=False)]
    common = ("s", "cartpole_balance", "dreamer", "reconstruction")
    assert rows == [
        (*common, 3, "a", 1, 10, "evaluate_return", 1.5),
        (*common, 3, "a", 1, 20, "evaluate_return", 2.5),
        (*common, 4, "b", 1, 5, "episode_return", 7.0),
    ]
    assert runs["run_id"].tolist() == ["a", "b"]
    assert runs["last_env_steps"].tolist() == [20, 5]
    assert runs["status"].tolist() == ["COMPLETED", "COMPLETED"]
    assert runs["commits"].tolist() == [{"1": "0123456789ab"}] * 2
    assert warnings == []


def test_only_the_wanted_runs_and_those_that_exist(tmp_path):
    write(tmp_path, "a", [evaluation(10, 1)])
    write(tmp_path, "b", [evaluation(10, 2)])
    records = load(FileSource(tmp_path), ["b", "c"])
    assert records.runs["run_id"].tolist() == ["b"]
    assert records.frame["value"].tolist() == [2]


def test_nothing_there(tmp_path):
    records = load(FileSource(tmp_path))
    assert records.frame.empty and records.runs.empty
    assert tuple(records.frame.columns) == FRAME_COLUMNS


def test_half_written_and_bad_lines_are_skipped_and_named(tmp_path):
    folder = write(tmp_path, "a", [evaluation(10, 1), evaluation(20, 2)])
    text = (folder / "metrics.jsonl").read_text().splitlines()
    bad = ["not json", "[1, 2]", '{"evaluate_return": 3}', '{"env_steps": -1}']
    (folder / "metrics.jsonl").write_text("\n".join([text[0], *bad, text[1], text[1][:25]]))
    records = load(FileSource(tmp_path))
    assert records.frame["value"].tolist() == [1, 2]
    assert [w for w in records.warnings if "bad line skipped" in w] == [
        f"a: metrics.jsonl line {n}: bad line skipped" for n in (2, 3, 4, 5)
    ]
    assert "a: metrics.jsonl line 7: half-written last line skipped" in records.warnings


def test_null_and_nan_are_marked_and_counted(tmp_path):
    values = [None, math.nan, math.inf, 9]
    write(tmp_path, "a", [evaluation(n, value) for n, value in enumerate(values)])
    records = load(FileSource(tmp_path))
    np.testing.assert_array_equal(records.frame["value"], [np.nan, np.nan, np.nan, 9])
    assert records.warnings == ["a: 3 values of evaluate_return are not numbers"]


def test_env_steps_that_go_back_are_named(tmp_path):
    write(tmp_path, "a", [evaluation(20, 1), evaluation(10, 2)])
    assert load(FileSource(tmp_path)).warnings == ["a: env_steps repeat or go back"]


def test_a_damaged_run_does_not_hide_the_others(tmp_path):
    write(tmp_path, "good", [evaluation(10, 1)])
    (write(tmp_path, "bad") / "config.json").write_text("{")
    (write(tmp_path, "bare") / "config.json").unlink()
    (write(tmp_path, "poor") / "config.json").write_text("{}")
    (write(tmp_path, "odd") / "status.json").write_text("{")
    records = load(FileSource(tmp_path), cache=tmp_path / "cache")
    assert records.runs["run_id"].tolist() == ["good", "odd"]
    assert records.runs["status"].tolist() == ["COMPLETED", "UNKNOWN"]
    text = "\n".join(records.warnings)
    assert "bad/config.json: damaged" in text
    assert "bare: no config.json" in text
    assert "poor: its settings lack task, seed" in text


def test_attempt_of_each_value(tmp_path):
    folder = write(tmp_path, "a", [evaluation(10, 1), evaluation(20, 2), evaluation(20, 3)])

    def attempt(number, **story):
        (folder / "attempts" / str(number)).mkdir(exist_ok=True)
        (folder / "attempts" / str(number) / "provenance.json").write_text(json.dumps(story))

    attempt(2, code="c2", from_values={"evaluate_return": 1})
    attempt(3, code="c3", from_values={"evaluate_return": 2})
    records = load(FileSource(tmp_path))
    assert records.frame["attempt"].tolist() == [1, 2, 3]
    assert records.runs["commits"].item() == {"1": "0123456789ab", "2": "c2", "3": "c3"}
    attempt(3, from_values=None)  # it ended before it did anything
    assert load(FileSource(tmp_path)).frame["attempt"].tolist() == [1, 2, 2]
    attempt(3, from_values={})  # it went back to the beginning
    assert load(FileSource(tmp_path)).frame["attempt"].tolist() == [3, 3, 3]
    attempt(2)  # it does not say where it began
    assert load(FileSource(tmp_path)).frame["attempt"].tolist() == [0, 0, 0]


def test_parse_takes_any_metric():
    line = b'{"env_steps": 5, "kl": 3.5, "model_loss": 1, "kind": "update"}\n'
    points, warnings = parse_metrics(line, ["kl", "model_loss", "none"])
    assert points.value.tolist() == [3.5, 1.0]
    assert points.metric.tolist() == [0, 1]
    assert warnings == []


def test_cache_reads_only_what_changed(tmp_path):
    for name in "abc":
        write(tmp_path, name, [evaluation(10, 1), evaluation(20, 2)])
    cache = tmp_path / "cache"
    source = CountingSource(tmp_path)
    first = load(source, cache=cache)
    assert source.reads == ["a", "b", "c"]
    source.reads.clear()
    again = load(source, cache=cache)
    assert source.reads == []
    assert again.frame.equals(first.frame)
    assert again.runs.equals(first.runs)
    with open(tmp_path / "runs" / "b" / "metrics.jsonl", "a") as file:
        file.write(json.dumps(evaluation(30, 3)) + "\n")
    changed = load(source, cache=cache)
    assert source.reads == ["b"]
    assert changed.frame.equals(load(FileSource(tmp_path)).frame)
    source.reads.clear()
    load(source, ["c"], cache=cache)  # reading some keeps the others in the cache
    load(source, cache=cache)
    assert source.reads == []


def test_a_path_may_be_no_utf_8(tmp_path):
    results = tmp_path / os.fsdecode(b"latin-\xe9")
    results.mkdir()
    write(results, "a", [evaluation(10, 1)])
    for _ in range(2):
        assert load(FileSource(results), cache=results / "cache").frame["value"].tolist() == [1]


def test_cache_notices_content_of_the_same_size_and_time(tmp_path):
    folder = write(tmp_path, "a", [evaluation(10, 1)])
    path = folder / "metrics.jsonl"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    cache = tmp_path / "cache"
    assert load(FileSource(tmp_path), cache=cache).frame["value"].tolist() == [1]
    path.write_text(json.dumps(evaluation(10, 7)) + "\n")
    os.utime(path, ns=times)
    assert load(FileSource(tmp_path), cache=cache).frame["value"].tolist() == [7]


@pytest.mark.parametrize("name", ["config.json", "attempts/1/provenance.json"])
def test_cache_notices_settings_and_provenance(tmp_path, name):
    folder = write(tmp_path, "a", [evaluation(10, 1)])
    source = CountingSource(tmp_path)
    load(source, cache=tmp_path / "cache")
    value = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**value, "seed": 5, "code": "new"}))
    runs = load(source, cache=tmp_path / "cache").runs
    assert source.reads == ["a", "a"]
    assert 5 in runs["seed"].tolist() or runs["commits"].item() == {"1": "new"}


def test_status_is_never_cached(tmp_path):
    folder = write(tmp_path, "a", [evaluation(10, 1)])
    load(FileSource(tmp_path), cache=tmp_path / "cache")
    (folder / "status.json").write_text('{"status": "FAILED", "error": "no luck"}')
    row = load(FileSource(tmp_path), cache=tmp_path / "cache").runs.iloc[0]
    assert (row["status"], row["error"]) == ("FAILED", "no luck")


def test_removed_runs_leave_the_cache(tmp_path):
    import shutil

    write(tmp_path, "a", [evaluation(10, 1)])
    shutil.copytree(write(tmp_path, "b", [evaluation(10, 2)]), tmp_path / "kept")
    load(FileSource(tmp_path), cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "runs" / "b")
    assert load(FileSource(tmp_path), cache=tmp_path / "cache").runs["run_id"].tolist() == ["a"]


@pytest.mark.parametrize("damage", ["truncate index", "truncate values", "remove values"])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    write(tmp_path, "a", [evaluation(10, 1)])
    cache = tmp_path / "cache"
    first = load(FileSource(tmp_path), cache=cache)
    index, values = next(cache.glob("*.json")), next(cache.glob("*.parquet"))
    if damage == "truncate index":
        index.write_bytes(index.read_bytes()[:20])
    elif damage == "truncate values":
        values.write_bytes(values.read_bytes()[:20])
    else:
        values.unlink()
    assert load(FileSource(tmp_path), cache=cache).frame.equals(first.frame)


def test_where_no_cache_can_be_written_the_values_are_read_all_the_same(tmp_path, capsys):
    """As in results of someone else, which may only be read."""
    write(tmp_path, "a", [evaluation(10, 1)])
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache"
    assert load(FileSource(tmp_path), cache=cache).frame["value"].tolist() == [1]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {cache}: not written: ")


def test_worker_processes_read_the_same(tmp_path):
    for i in range(201):
        write(tmp_path, f"run{i:03d}", [evaluation(10, i), evaluation(20, None)], seed=i)
    one = load(FileSource(tmp_path), workers=1)
    two = load(FileSource(tmp_path), workers=2)
    assert one.frame.equals(two.frame)
    assert one.warnings == two.warnings and len(one.warnings) == 201


def test_metrics_have_caches_of_their_own(tmp_path):
    write(tmp_path, "a")
    cache = tmp_path / "cache"
    plain = load(FileSource(tmp_path), cache=cache)
    other = load(FileSource(tmp_path), cache=cache, metrics=("kl",))
    assert set(plain.frame["metric"]) == set(METRICS)
    assert set(other.frame["metric"]) == {"kl"}
