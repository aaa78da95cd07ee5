"""The doctor: what it finds, what it advises, and its exit code."""

from __future__ import annotations

import errno
import fcntl

import pytest

from slurm import doctor
from slurm.profiles import load_profile
from suites import run
from suites.forecast import replay_bytes
from suites.language.suite import expand


def test_too_little_disk_is_a_failure_with_something_to_do(tmp_path):
    row = doctor.check_disk(tmp_path / "results", needs_gb=1e9)
    assert row.verdict == doctor.FAIL and "--results" in row.todo
    assert doctor.check_disk(tmp_path / "results", needs_gb=0.0).verdict == doctor.OK


def test_a_lock_is_tried_from_two_processes_and_for_another_machine(tmp_path, monkeypatch):
    assert doctor.check_locks(tmp_path / "results").verdict == doctor.OK
    with doctor._locked_file(tmp_path / "results") as held:
        assert doctor.check_locks_across(held).verdict == doctor.OK
    assert list(tmp_path.iterdir()) == []
    unlocked = tmp_path / "file"
    unlocked.touch()
    row = doctor.check_locks_across(unlocked)  # as where locks do not cross machines
    assert row.verdict == doctor.FAIL and "nolock" in row.todo
    assert doctor.check_locks_across(tmp_path / "elsewhere").verdict == doctor.FAIL

    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    row = doctor.check_locks(tmp_path)
    assert row.verdict == doctor.FAIL and "no file locks" in row.found and "lockd" in row.todo


def test_an_absent_mongodb_is_found_and_its_password_not_shown():
    pytest.importorskip("pymongo")
    [row] = doctor.check_mongo(["mongodb://somebody:hunter2@127.0.0.1:9/lab"])
    assert row.verdict == doctor.FAIL and "127.0.0.1:9" in row.found
    assert "hunter2" not in str(row) and "somebody" not in str(row)


def test_an_egl_device_that_is_not_cuda_s_is_named():
    found = {"renderer": "egl llvmpipe", "domains": 1, "ms": 40.0, "black": []}
    assert doctor._rendered("egl", found, []).verdict == doctor.OK
    row = doctor._rendered("egl", found, ["NVIDIA H200"])
    assert row.verdict == doctor.WARN and "MUJOCO_EGL_DEVICE_ID" in row.todo
    found["renderer"] = "egl NVIDIA H200/PCIe/SSE2"
    assert doctor._rendered("egl", found, ["NVIDIA H200"]).verdict == doctor.OK


def test_gpus_that_egl_numbers_differently_are_named(tmp_path, monkeypatch):
    (tmp_path / "slurm").mkdir()
    checks = tmp_path / "slurm/checks.py"  # in place of the real one, which takes GPUs
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    for numbers, verdict in (("0, 1, null", doctor.OK), ("1, 0", doctor.WARN), ("", doctor.WARN)):
        checks.write_text(f"print('[{numbers}]')")
        row = doctor.check_egl_devices(2)
        assert row.verdict == verdict
        assert verdict == doctor.OK or "MUJOCO_EGL_DEVICE_ID" in row.todo


def test_a_renderer_that_hangs_is_told_from_one_that_is_not_installed(monkeypatch, tmp_path):
    (tmp_path / "slurm").mkdir()
    checks = tmp_path / "slurm/checks.py"  # in place of the real one
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(doctor, "RENDER_WITHIN_S", 1.0)
    checks.write_text("import time; time.sleep(60)")
    rows = list(doctor.check_renderers(tmp_path, quick=True, cuda=[]))
    assert [row.verdict for row in rows] == [doctor.WARN, doctor.WARN, doctor.FAIL]
    assert rows[0].found == "no answer within 1 s" and rows[0].todo == doctor.HANGS
    monkeypatch.setattr(doctor, "RENDER_WITHIN_S", 60.0)
    checks.write_text("raise ImportError('no libOSMesa')")
    rows = list(doctor.check_renderers(tmp_path, quick=True, cuda=[]))
    assert "no libOSMesa" in rows[1].found and "libosmesa6" in rows[1].todo


def test_the_node_is_asked_for_as_the_profile_says(tmp_path, monkeypatch):
    given = "p: {partition: gpu, gpus_per_node: 1, time: 600, sbatch: [--exclusive]}\n"
    (tmp_path / "profiles.yaml").write_text(given)
    monkeypatch.setenv("DREAMER_SLURM_PROFILES", str(tmp_path / "profiles.yaml"))
    words = doctor.srun(load_profile("p"))
    assert {"--partition=gpu", "--gpus-per-node=1", "--exclusive", "--time=30"} <= set(words)
    assert "--time=600" not in words


@pytest.mark.parametrize(("verdict", "code"), [(doctor.OK, 0), (doctor.WARN, 0), (doctor.FAIL, 1)])
def test_the_exit_code_says_whether_the_node_is_fit(monkeypatch, capsys, verdict, code):
    rows = [doctor.Row("disk", verdict, "1 GB free", "free some")]
    monkeypatch.setattr(doctor, "checks", lambda *arguments: rows)
    assert doctor.main([]) == code
    assert "-> free some" in capsys.readouterr().out


def test_bad_input_is_one_line(capsys):
    for wrong in (["--profile", "defualt"], ["--needs-gb", "much"], ["--qiuck"]):
        assert doctor.main(wrong) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and len(said.err.splitlines()) == 1 and not said.out


def test_a_suite_is_not_submitted_where_its_disk_is_missing(monkeypatch, tmp_path, capsys):
    """`suites.run --doctor` gives the doctor the plan's forecast, and obeys."""
    asked = {}

    def examine(profile, results, **needs):
        asked.update(needs)
        return 1

    monkeypatch.setattr(doctor, "examine", examine)
    options = ["suites/figure6.yaml", "--executor", "slurm", "--doctor", "--results", str(tmp_path)]
    assert run.main(options) == 2
    assert "nothing is submitted" in capsys.readouterr().err
    config = expand("suites/figure6.yaml").runs[0].config
    assert asked["needs_gb"] >= 120 * replay_bytes(config, 2e6) / 1e9
    assert not (tmp_path / "slurm").exists()
