"""The program of a SLURM job, with real worker processes and no SLURM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import ROOT, small_disk, spec_in

from dreamer import run_folder
from slurm import job
from suites.execution.spec import EXIT_CODES, WORKER, Spec

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def in_a_job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/stand_ins"))


def execute(specs: list[Spec], folder: Path) -> dict[str, int]:
    tasks = [job.RunTask(s.run_id, str(s.folder), s.to_json()) for s in specs]
    for spec in specs:
        spec.folder.mkdir(parents=True)
    one = job.Job(
        tasks=tasks,
        module=WORKER,
        code=str(ROOT),
        folder=str(folder),
        cancelled=str(folder),
        signal_delay_s=90,
        requeue=False,
    )
    return job.execute(one)


def test_exit_code_0_of_an_environment_is_a_failure_and_stops_no_other_run(tmp_path):
    quits, fine = spec_in(tmp_path, task="odd_endings:Quits"), spec_in(tmp_path)
    codes = execute([quits, fine], tmp_path)
    assert codes == {quits.run_id: EXIT_CODES["FAILED"], fine.run_id: EXIT_CODES["COMPLETED"]}
    status = run_folder.read_status(quits.folder)
    assert status["status"] == "FAILED" and status["error"] == "exit code 0; see the job's log"
    endings = [json.loads((s.folder / "attempts/1/slurm.json").read_text()) for s in (quits, fine)]
    assert [ending["ended"] for ending in endings] == ["failed", "completed"]


def test_a_run_that_cannot_start_is_named_in_its_status(tmp_path):
    spec = spec_in(tmp_path)
    spec.config["horizon"] = "far"
    assert execute([spec], tmp_path) == {spec.run_id: EXIT_CODES["FAILED"]}
    status = run_folder.read_status(spec.folder)
    assert status["status"] == "FAILED" and "horizon" in status["error"]


def test_a_full_disk_is_named_in_the_job_s_log(tmp_path, monkeypatch, capsys):
    with small_disk(tmp_path / "disk", 32) as disk:
        monkeypatch.setenv("DISK", str(disk))
        spec = spec_in(disk, task="odd_endings:FillsTheDisk")
        assert execute([spec], tmp_path) == {spec.run_id: EXIT_CODES["FAILED"]}
    lines = capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if line.startswith(f"{spec.run_id}: FAILED: ")]
    assert line.count("No space left on device") == 2  # of the run, and of its status
