"""The run folder: files are written whole, checksums are read, values belong to attempts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import python

from dreamer import run_folder
from dreamer.run_folder import State, Status, made_by


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / run_folder.CONFIG
    run_folder.write_json(path, {"seed": 1})

    def fail_half_way() -> None:
        with run_folder.replacing(path) as partial:
            partial.write_text("half")
            assert run_folder.read_json(path) == {"seed": 1}
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()
    assert run_folder.read_json(path) == {"seed": 1}
    assert [p.name for p in tmp_path.iterdir()] == [run_folder.CONFIG]
    path.write_text("[1]")
    assert run_folder.read_json(path) is None is run_folder.read_json(tmp_path / "nothing")


def test_a_status_that_cannot_be_read_is_not_one_that_is_missing(tmp_path: Path) -> None:
    assert run_folder.read_status(tmp_path) is None
    for text in ("{", "[]", '"RUNNING"'):
        (tmp_path / run_folder.STATUS).write_text(text)
        assert run_folder.read_status(tmp_path) == {}


def test_states_and_statuses_are_text_in_json() -> None:
    assert json.dumps([State.DONE, Status.FAILED]) == '["done", "FAILED"]'
    assert State.DONE == "done" and {"done": 1}[State.DONE] == 1


def test_checkpoints_sort_by_age(tmp_path: Path) -> None:
    names = [run_folder.checkpoint_name(*counts) for counts in ((900, 9), (10_000, 10))]
    for name in reversed(names):
        (tmp_path / name).write_bytes(b"x")
    run_folder.checksum_path(tmp_path / names[0]).write_text("of earlier code")
    assert [path.name for path in run_folder.checkpoint_paths(tmp_path)] == names


@pytest.mark.parametrize(
    ("from_values", "expected"),
    [
        ({1: None}, [(1, 0, 9)]),  # the first began with nothing
        ({1: {}, 2: {"kl": 4}}, [(2, 4, 9), (1, 0, 4)]),
        ({1: {}, 2: None, 3: {"kl": 4}}, [(3, 4, 9), (1, 0, 4)]),  # the second made nothing
        ({1: {}, 2: {"kl": 6}, 3: {"kl": 4}}, [(3, 4, 9), (1, 0, 4)]),  # the third went back
        ({1: {}, 2: {"kl": 9}}, [(1, 0, 9)]),
        ({2: {"other": 3}}, [(2, 0, 9)]),
        ({}, []),
    ],
)
def test_each_value_was_made_by_one_attempt(from_values, expected) -> None:
    spans = made_by("kl", 9, from_values)
    assert spans == [(attempt, slice(begin, end)) for attempt, begin, end in expected]


def test_it_needs_the_standard_library_alone() -> None:
    code = "import sys, dreamer.run_folder; print(*{m.split('.')[0] for m in sys.modules})"
    done = python(code)
    loaded = set(done.stdout.split())
    assert "dreamer" in loaded and not loaded & {"numpy", "torch", "orjson", "yaml", "suites"}
