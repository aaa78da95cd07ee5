"""Environments of users: found beside their suite, and made once before any run starts."""

from __future__ import annotations

import os
import sys

import pytest
from helpers import SUITE

from dreamer import run_folder
from dreamer.config import make_config
from dreamer.errors import UserError
from suites import run
from suites.command import read_suite
from suites.execution.trial import try_tasks

MODULE = """
import os
from gymnasium_like import Drift

def make(level=0):
    with open("made.txt", "a") as file:
        file.write(f"{level}\\n")
    if level == 9:
        os.kill(os.getpid(), 9)
    return Drift()
"""
OWN = SUITE.replace("seeds: 3", "seeds: 1").replace("task: toy_dot", "task: beside:make")


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A suite and its module in a folder that is not the one where commands are typed."""
    for name in ("suite", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "suite/beside.py").write_text(MODULE)
    path = tmp_path / "suite/own.yaml"
    path.write_text(OWN + "  environment: [{level: 1}, {level: 2}]\n")
    stand_ins = next(folder for folder in sys.path if folder.endswith("stand_ins"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ.get("PYTHONPATH", ""), stand_ins]))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("DREAMER_MONGO_URL", "")
    monkeypatch.chdir(tmp_path / "here")
    return path


def configs(suite) -> list[dict]:
    return [dict(run.config) for run in read_suite(suite).runs]


@pytest.mark.slow
def test_a_module_beside_the_suite_is_found_by_workers(suite):
    words = ["--set", "env_steps=120", "--set", 'environment={"level": 1}']
    assert run.main([str(suite), *words]) == 0


def test_each_environment_is_made_once(suite, tmp_path):
    try_tasks(configs(suite) * 2)
    assert (tmp_path / "here/made.txt").read_text() == "1\n2\n"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": "no_module:make"}, "no module 'no_module' here"),
        ({"task": "beside:mak"}, "mak"),
        ({"environment": '{"speed":1}'}, "unexpected keyword argument 'speed'"),
        ({"environment": '{"level":9}'}, "task: beside:make: its process was ended by SIGKILL"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(suite, changed, said):
    with pytest.raises(UserError, match=said) as error:
        try_tasks([configs(suite)[0] | changed])
    assert "\n" not in str(error.value)


def test_nothing_starts_after_a_mistake(suite, capsys):
    words = [str(suite), "--set", 'environment={"speed": 1}']
    assert run.main(words) == 2
    assert "speed" in capsys.readouterr().err.splitlines()[-1]
    assert not run_folder.RESULTS.exists()


def test_tasks_of_ours_are_not_tried():
    try_tasks([vars(make_config("tiny", {"task": task})) for task in ("toy_dot", "walker_walk")])
