"""Installed as a wheel, without the checkout, every command works from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUITE = """\
about: A toy
preset: tiny
env_steps: 120
time_limit_env_steps: 40
seed_episodes: 2
first_updates: 2
updates_per_1000_env_steps: 10
eval_every_env_steps: 60
batch_size: 4
length: 5
horizon: 3
seeds: 1
figures: [curves, aggregates]
scale: [0, 50]
grid:
  task: [toy_dot]
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files and nothing else of ours."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().rstrip("\0").split("\0"):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site


def test_every_command_works(site: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(SUITE)

    def run(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-P", "-m", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    code = "import dreamer, suites, slurm, analysis; print(analysis.__file__)"
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith(str(site)), "this test sees the checkout, not the wheel"
    assert "small dreamer reconstruction: " in run(
        "suites.run", str(site / "suites" / "small.yaml"), "--plan"
    )
    run("suites.run", "own.yaml")
    assert "1 done" in run("suites.status", "own.yaml")
    # Without a repository the code's version is a hash, and the audit says so.
    [note, count] = run("suites.audit", "own.yaml").splitlines()
    assert note.startswith("note: commit unknown") and count == "1 run, all well"
    run("analysis.make_figures", "--suite", "own.yaml", "--html", "report.html")
    assert (tmp_path / "results" / "figures" / "own" / "curves.png").stat().st_size > 0
    assert "toy_dot" in (tmp_path / "report.html").read_text()
    run("analysis.reproduction", "--help")
    run("slurm.doctor", "--help")
    run("dreamer.evaluate", str(next((tmp_path / "results" / "runs").iterdir())), "--episodes", "1")


def test_profiles_are_installed(site: Path) -> None:
    code = "from slurm.profiles import load_profile as load; print(load('short').name)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "short\n"
