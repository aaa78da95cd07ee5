"""How runs and commands end when a user's code, the disk or the terminal misbehaves."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, SUITE, small_disk, spec_in, wait_until

from dreamer import run_folder
from slurm.job import RunTask, write_status
from suites.execution.local import Worker, _ending
from suites.execution.spec import EXIT_CODES, LAST_WORDS, last_words
from suites.language.suite import expand

WITHIN_S = 300.0
OWN = """
preset: tiny
device: cpu
seeds: 1
env_steps: 120
seed_episodes: 3
first_updates: 3
updates_per_1000_env_steps: 50
batch_size: 4
length: 6
eval_episodes: 1
eval_every_env_steps: 60
checkpoint_every_env_steps: 60
log_every_updates: 2
action_repeat: 1
"""


def suite_of(folder: Path, text: str) -> Path:
    path = folder / "suite.yaml"
    path.write_text(text)
    return path


def own(folder: Path, name: str, more: str = "") -> Path:
    """A suite with an environment of stand_ins/odd_endings.py."""
    return suite_of(folder, f"{OWN}task: odd_endings:{name}\n{more}")


def words(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"suites.{module}", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/stand_ins")])
    usual = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "", "PYTHONPATH": paths}
    return {**os.environ, **usual, **more}


def typed(module: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(module, *arguments), cwd=ROOT, env=environment(**more), capture_output=True,
        text=True, encoding="latin-1", stdin=subprocess.DEVNULL, timeout=WITHIN_S,
    )  # fmt: skip


def status_in(results: Path) -> dict:
    [folder] = (results / "runs").iterdir()
    return run_folder.read_status(folder) or {}


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=WITHIN_S,
    )  # fmt: skip


# --- Environments ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("collect", ["interleaved", "parallel"])
def test_exit_in_an_environment_fails_its_run_and_nothing_hangs(tmp_path, collect):
    suite = own(tmp_path, "Exits", f"collect: {collect}\n")
    ended = typed("run", suite, "--results", tmp_path / "results")
    assert ended.returncode == 1 and ended.stdout.strip() == "1 failed"
    assert "exit" in status_in(tmp_path / "results")["error"]


@pytest.mark.slow
def test_a_thread_that_never_ends_and_a_reader_of_stdin_hold_up_nothing(tmp_path, monkeypatch):
    suite = own(tmp_path, "Lingers")
    code = "from suites.execution import worker; worker.STOPS_WITHIN_S = 1.0; worker.run_and_end()"
    [run] = expand(suite).runs
    spec = {"run_id": run.run_id, "config": run.config, "suites": [], "results": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(), cwd=ROOT,
    )  # fmt: skip
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write(json.dumps(spec).encode() + b"\n")
    process.stdin.flush()
    assert process.wait(WITHIN_S) == EXIT_CODES["COMPLETED"]
    process.stdin.close()
    said = last_words(process.stderr.read().decode())
    process.stderr.close()
    assert said["status"] == "COMPLETED" and said["env_steps"] >= 120


@pytest.mark.slow
def test_foreign_errors_are_shown_in_any_locale_and_never_steer_the_terminal(tmp_path):
    suite, results = own(tmp_path, "Breaks"), tmp_path / "results"
    ended = typed("run", suite, "--results", results, PYTHONIOENCODING="latin-1")
    assert ended.returncode == 1 and "no answer \\u2014 after 3 \\u20ac" in ended.stderr
    for module, code in (("status", 1), ("audit", 1)):
        shown = typed(module, suite, "--results", results, PYTHONIOENCODING="latin-1")
        assert (shown.returncode, shown.stderr) == (code, "")
        assert "no answer \\u2014 after 3 \\u20ac \\x1b[31mred" in shown.stdout
        assert "\x1b" not in shown.stdout


# --- The disk -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_next_run_continues(tmp_path):
    suite = own(tmp_path, "Slow")
    suite.write_text(suite.read_text().replace("env_steps: 120", "env_steps: 600"))
    with small_disk(tmp_path / "disk", 32) as disk:
        process = subprocess.Popen(
            words("run", suite, "--results", disk / "results"), cwd=ROOT, env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_until(lambda: list(disk.glob("results/runs/*/checkpoints/*.pt")), WITHIN_S)
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        _, said = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 1
        [failure] = [line for line in said.splitlines() if line.startswith("FAIL ")]
        assert "No space left on device" in failure
        (disk / "filler").unlink()
        again = typed("run", suite, "--results", disk / "results", "--retry-failed")
        assert (again.returncode, again.stdout.splitlines()[0]) == (0, "1 done"), again.stderr


@pytest.mark.parametrize("status", ["RUNNING", "FAILED"])
def test_last_words_never_replace_the_status_of_a_later_attempt(tmp_path, status):
    """A colleague's process, on another machine, may continue a run before our command has seen
    its worker end."""
    spec = spec_in(tmp_path)
    later = {"run_id": spec.run_id, "status": status, "attempt": 2}
    spec.folder.mkdir(parents=True)
    run_folder.write_json(spec.folder / "status.json", later)
    said = {"run_id": spec.run_id, "status": "INTERRUPTED", "attempt": 1}
    with subprocess.Popen(["true"]) as process, open(os.devnull, "w+b") as stderr:
        worker = Worker(spec, process, 0, stderr, before=None)
        ended = _ending(worker, EXIT_CODES["INTERRUPTED"], json.dumps({LAST_WORDS: said}))
    assert ended == said and run_folder.read_status(spec.folder) == later
    task = RunTask(spec.run_id, str(spec.folder), spec.to_json())
    write_status(task, **said)
    assert run_folder.read_status(spec.folder) == later


def test_last_words_are_found_among_other_output():
    line = json.dumps({LAST_WORDS: {"status": "FAILED", "error": "No space left on device"}})
    assert last_words(f"noise\n{line}\nof a driver\n")["error"] == "No space left on device"
    assert last_words(f"noise\n{line[:-5]}") == last_words("") == {}
    assert len(set(EXIT_CODES.values())) == 3 and not {1, 2} & set(EXIT_CODES.values())


# --- Output that nobody reads ---------------------------------------------------------------------


@pytest.mark.slow
def test_runs_go_on_when_nobody_reads_their_progress(tmp_path):
    suite = suite_of(tmp_path, SUITE.replace("seeds: 3", "seeds: 2"))
    command = " ".join(words("run", suite, "--results", tmp_path / "results"))
    ended = shell(f"{command} 2>&1 | head -n 1")
    assert ended.stdout.startswith("start") and ended.stderr == ""
    assert typed("run", suite, "--results", tmp_path / "results").stdout.startswith("2 done")


@pytest.mark.slow
def test_a_closed_terminal_keeps_no_run_from_starting(tmp_path):
    suite, results = suite_of(tmp_path, SUITE.replace("seeds: 3", "seeds: 2")), tmp_path / "results"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words("run", suite, "--results", results, "--workers", 1), cwd=ROOT, env=environment(),
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    wait_until(lambda: list(results.glob("runs/*/metrics.jsonl")), WITHIN_S)
    os.close(ours)
    process.wait(WITHIN_S)
    assert typed("status", suite, "--results", results).stdout.rstrip().endswith("2 done")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("status suites/smoke.yaml --results {} >&-", 1, ""),
        (
            "status suites/smoke.yaml --results {} >/dev/full",
            2,
            "error: stdout: No space left on device\n",
        ),
        ("run suites/smoke.yaml --onyl x 2>&-", 2, ""),
        ("run suites/smoke.yaml --onyl x 2>/dev/full", 2, ""),
        ("run suites/smoke.yaml --dry-run 0<&- >&- 2>&-", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path, line, code, said):
    ended = shell(f"{sys.executable} -m suites.{line.format(tmp_path)}")
    assert (ended.returncode, ended.stderr) == (code, said)


def test_a_question_without_an_answer_starts_nothing(tmp_path):
    command = words("run", "suites/figure6.yaml", "--executor", "local", "--results", tmp_path)
    closed = shell(f"{' '.join(command)} <&-")
    assert closed.returncode == 2 and "--yes if that is meant" in closed.stderr
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=theirs, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, b"\x04")  # Ctrl-D
    _, said = process.communicate(timeout=WITHIN_S)
    os.close(ours)
    assert process.returncode == 2 and said.splitlines()[-1] == "error: not started"


@pytest.mark.parametrize("after_s", [0.15, 0.4])
def test_ctrl_c_leaves_no_traceback(after_s):
    process = subprocess.Popen(
        words("run", "suites/paper.yaml", "--dry-run"), cwd=ROOT, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=WITHIN_S)
    started = "init_import_site" not in said  # else Python itself had not
    assert (process.returncode in (0, 130, -signal.SIGINT) and said == "") or not started


# --- What lies in the folder ----------------------------------------------------------------------


def test_the_error_of_a_stopped_run_is_shown_and_recorded(tmp_path):
    suite, results = suite_of(tmp_path, SUITE.replace("seeds: 3", "seeds: 1")), tmp_path / "results"
    folder = run_folder.run_path(results, expand(suite).runs[0].run_id)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("")
    status = {"run_id": folder.name, "status": "INTERRUPTED", "attempt": 1, "env_steps": 50}
    run_folder.write_json(folder / "status.json", status)
    ended = typed("run", suite, "--results", results)
    assert ended.returncode == 1 and "config.json: damaged; restore it" in ended.stderr
    assert "stop " not in ended.stderr
    assert "config.json: damaged" in typed("status", suite, "--results", results).stdout


def test_a_folder_with_a_date_for_a_name_is_no_reason_to_search_for_ever(tmp_path):
    folder = tmp_path / "run"
    for name in ("1", "2", "20261125", "007", "٣", "notes", "9" * 200):
        (folder / "attempts" / name).mkdir(parents=True)
    assert run_folder.attempts(folder) == [1, 2, 20261125, int("9" * 200)]
    suite, results = suite_of(tmp_path, SUITE.replace("seeds: 3", "seeds: 1")), tmp_path / "results"
    made = run_folder.run_path(results, expand(suite).runs[0].run_id)
    (made / "attempts" / "20261125").mkdir(parents=True)
    (made / "config.json").write_text("")  # it ends before training
    assert typed("run", suite, "--results", results).returncode == 1


@pytest.mark.parametrize(
    "value",
    [
        {"env_steps": "many"},
        {"evaluate_return": [1]},
        {"seconds_left": 1e300},
        {"seconds_left": float("inf")},
        {"episode_return": float("nan")},
        {"attempt": 10**200},
        {"heartbeat": 5},
        {"suites": 3},
        {"suites": [["x"]]},
        {"error": {"a": 1}},
        {"code": ["x"]},
        {"host": True},
    ],
)
def test_a_status_with_other_types_counts_as_unreadable(tmp_path, value):
    suite = suite_of(tmp_path, SUITE)
    run_id = expand(suite).runs[0].run_id
    folder = run_folder.run_path(tmp_path, run_id)
    folder.mkdir(parents=True)
    status = {"run_id": run_id, "status": "RUNNING", "host": "elsewhere", "attempt": 1}
    (folder / "status.json").write_text(json.dumps({**status, **value}))
    assert run_folder.read_status(folder) == {}
    for text in ("[" * 100_000, "9" * 10_000, '"text"'):
        (folder / "status.json").write_text(text)
        assert run_folder.read_status(folder) == {}


def test_pipes_devices_and_links_to_them_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml"):
        ended = typed("run", tmp_path / name)
        assert (ended.returncode, ended.stderr) == (
            2,
            f"error: {tmp_path / name}: not a regular file\n",
        )
    os.mkfifo(tmp_path / "status.json")
    assert run_folder.read_status(tmp_path) == {}
    for name in ("x.pt", "y.pt"):  # of earlier code: the checksum is a file
        (tmp_path / name).write_bytes(bytes(100))
    os.mkfifo(tmp_path / "x.pt.sha256")
    assert not run_folder.is_whole(tmp_path / "x.pt")
    (tmp_path / "y.pt.sha256").write_bytes(b"\xff\xfe\x00")
    assert not run_folder.is_whole(tmp_path / "y.pt")


def test_files_that_include_one_another_many_times_are_read_once(tmp_path):
    for level in range(24):
        deeper = f"include: [s{level + 1}.yaml, ./s{level + 1}.yaml]\n"
        (tmp_path / f"s{level}.yaml").write_text(deeper)
    (tmp_path / "s24.yaml").write_text(SUITE)
    assert len(expand(tmp_path / "s0.yaml").runs) == 3
    for level in range(80):
        (tmp_path / f"d{level}.yaml").write_text(f"include: d{level + 1}.yaml\n")
    ended = typed("run", tmp_path / "d0.yaml", "--dry-run")
    assert ended.returncode == 2 and "files that include one another" in ended.stderr


# --- Numbers and names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "suites/smoke.yaml", "--dry-run", "--set", "horizon=" + "9" * 350),
        ("run", "suites/smoke.yaml", "--dry-run", "--set", "kl_scale=" + "9" * 350),
        ("run", "suites/smoke.yaml", "--dry-run", "--set", "seeds=" + "9" * 350),
        ("run", "suites/smoke.yaml", "--dry-run", "--only", "seed=" + "9" * 350),
        ("run", "x" * 300 + ".yaml"),
        ("run", "suites/smoke.yaml", "--results", "x" * 300),
        ("status", "suites/smoke.yaml", "--results", "x" * 300),
        ("audit", "--run", "x" * 300),
        ("run", "suites/smoke.yaml", "--plan", "--workers", "9" * 350),
        ("run", "a\x00b.yaml"),
        ("audit", "--run", "\x1b[31m"),
    ],
)
def test_long_numbers_and_names_are_one_line(arguments, capfd):
    from suites import audit, run, status

    module, *rest = arguments
    assert {"run": run, "status": status, "audit": audit}[module].main(rest) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and said[:-1].isprintable()
    assert "unexpected" not in said
