"""Who may write to a run: locks, signs of life, attempts that give way to later ones."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import SUITE, metrics_of, spec_in, wait_until, worker

from dreamer import run_folder
from dreamer.errors import UserError
from dreamer.run_folder import State
from suites import run, status
from suites.execution import cluster
from suites.execution.attempt import execute
from suites.execution.spec import EXIT_BUSY
from suites.record.folder import (  # fmt: skip
    BusyError,
    NoLocksError,
    check_writable,
    is_locked,
    locked,
    look,
    new_attempt,
)

LONG = {"env_steps": 100_000}  # longer than any test waits
ELSEWHERE = {"status": "RUNNING", "host": "elsewhere", "attempt": 1}


def running(folder: Path, age_s: float = 0.0, **values: Any) -> Path:
    """A run of another machine, whose status.json was written so long ago by the disk's clock."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / run_folder.STATUS
    run_folder.write_json(path, {**ELSEWHERE, "heartbeat": run_folder.now(), **values})
    written = path.stat().st_mtime - age_s
    os.utime(path, (written, written))
    return folder


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users may read, where pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


def as_reader(folder: Path, ask: Callable[[], Any]) -> Any:
    """What `ask` returns, or raises, in a process that may read the folder and not write it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            answer = ask()
        except Exception as error:
            answer = error
        os.write(theirs, pickle.dumps(answer))
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as file:
        answer = pickle.loads(file.read())
    os.waitpid(child, 0)
    if isinstance(answer, Exception):
        raise answer
    return answer


def test_life_is_seen_by_change_and_not_by_two_clocks(tmp_path):
    days = "2020-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00"
    for heartbeat in (run_folder.now(), *days, None):
        folder = running(tmp_path / "run", heartbeat=heartbeat)
        assert look(folder)[0] == State.RUNNING
        for age_s in (300, -3 * 86400):
            assert look(running(folder, age_s, heartbeat=heartbeat))[0] == State.DEAD
    assert {path.name for path in folder.iterdir()} == {run_folder.STATUS}  # looking leaves no file


def test_a_reader_sees_who_lives_here_and_says_what_he_cannot_see(public):
    here = {"host": os.uname().nodename}
    folder = running(public / "here", 300, **here)
    with locked(folder):
        assert as_reader(public, lambda: look(folder)[0]) == State.RUNNING
    assert as_reader(public, lambda: look(folder)[0]) == State.DEAD
    (folder / run_folder.LOCK).unlink()
    assert as_reader(public, lambda: is_locked(folder)) is False
    other = running(public / "other")
    assert as_reader(public, lambda: look(other)[0]) == State.RUNNING
    running(other, heartbeat="2020-01-01T00:00:00+00:00")
    state, found = as_reader(public, lambda: look(other))
    assert state == State.UNKNOWN and "only with write permission" in found["unsure"]


def test_what_may_not_be_read_is_unknown_and_no_run_to_continue(public):
    folder = running(public / "run", status="INTERRUPTED")

    def ask() -> Any:
        return look(folder)

    assert as_reader(public, ask)[0] == State.STOPPED
    closed = folder / run_folder.STATUS
    closed.unlink()
    closed.mkdir()  # nobody can read it
    state, found = look(folder)
    assert state == State.UNKNOWN and "cannot be read" in found["unsure"]


def test_a_run_of_someone_else_is_refused_before_anything_is_written(public):
    spec = spec_in(public)
    running(spec.folder, status="INTERRUPTED")
    (spec.folder / "replay").mkdir()
    (spec.folder / "replay/images.u8").touch()
    (spec.folder / "lock").touch()
    for error in (BusyError, UserError):
        with pytest.raises(error, match="cannot be written"):
            as_reader(spec.folder, lambda: check_writable(spec.folder))
    assert not (spec.folder / "attempts").exists()
    assert look(spec.folder)[0] == State.STOPPED


def test_colleagues_may_continue_what_the_umask_lets_them(tmp_path):
    old = os.umask(0o002)
    try:
        process = worker(spec := spec_in(tmp_path, keep_replay="always"))
        assert process.wait(120) == 0
        process.stdout.close()
    finally:
        os.umask(old)
    closed = [p for p in tmp_path.rglob("*") if not p.stat().st_mode & 0o020]
    assert closed == [] and any((spec.folder / run_folder.REPLAY).iterdir())


@pytest.mark.parametrize(
    "how",
    [
        "another attempt",
        pytest.param("another status", marks=pytest.mark.slow),
        pytest.param("moved away", marks=pytest.mark.slow),
    ],
)
def test_who_is_taken_over_stops_without_writing(tmp_path, how):
    """As when two machines do not see each other's locks, or one was asleep."""
    spec = spec_in(tmp_path, **LONG)
    process = worker(spec)
    wait_until(lambda: (spec.folder / "metrics.jsonl").exists() and metrics_of(spec))
    theirs = {**ELSEWHERE, "attempt": 2, "heartbeat": "then"}
    if how == "another attempt":
        assert new_attempt(tmp_path, spec.run_id) == 2
    elif how == "moved away":
        spec.folder.rename(tmp_path / "discarded")
        spec.folder.mkdir()
    run_folder.write_json(spec.folder / run_folder.STATUS, theirs)
    assert process.wait(60) == EXIT_BUSY
    process.stdout.close()
    assert run_folder.read_status(spec.folder) == theirs
    if how == "moved away":
        assert not (spec.folder / run_folder.ATTEMPTS).exists()
    else:
        log = (spec.folder / "attempts/1/log.txt").read_text()
        assert "another process has taken it over" in log and "Traceback" not in log
        assert not (spec.folder / "attempts/1/error.txt").exists()


def test_a_run_that_another_machine_executes_is_not_started(tmp_path):
    spec = spec_in(tmp_path)
    running(spec.folder)
    with pytest.raises(BusyError, match="elsewhere executes it"):
        execute(spec)
    assert run_folder.attempts(spec.folder) == []
    assert run_folder.read_status(spec.folder)["host"] == "elsewhere"


def test_two_machines_never_make_the_same_attempt(tmp_path):
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.append(new_attempt(tmp_path, "run")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))


def test_who_waits_for_a_run_that_is_moved_away_gets_the_new_one(tmp_path):
    folder, got = tmp_path / "run", threading.Event()

    def wait() -> None:
        with locked(folder):
            got.set()

    with locked(folder):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        folder.rename(tmp_path / "discarded")
    waiting.join()
    assert got.is_set() and (folder / run_folder.LOCK).exists()


def test_fresh_moves_no_run_that_lives(tmp_path):
    folder = running(run_folder.run_path(tmp_path, "name"))
    with pytest.raises(UserError, match="name is running on elsewhere; stop it first"):
        run.set_aside(tmp_path, "name")
    running(folder, 300)
    with locked(folder), pytest.raises(BusyError):
        run.set_aside(tmp_path, "name")
    assert folder.exists()
    run.set_aside(tmp_path, "name")
    assert not folder.exists() and (tmp_path / "discarded/name-0/status.json").exists()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, capsys, code):
    def no_locks(file: Any, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)  # no such file system can be mounted here
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE.replace("seeds: 3", "seeds: 1"))
    words = [str(suite), "--results", str(tmp_path)]
    assert run.main([*words, "--executor", "debug"]) == 2
    [line] = capsys.readouterr().err.splitlines()[-1:]
    assert "no file locks" in line and "lockd" in line and "--results" in line
    assert status.main(words) == 1
    said = capsys.readouterr().out
    assert "failed: " in said and "no file locks" in said
    assert "; see " not in said  # no attempt was made
    with pytest.raises(NoLocksError), cluster._locked(tmp_path):
        pass
    monkeypatch.undo()  # as if the results were moved to another disk
    assert run.main([*words, "--executor", "debug", "--retry-failed"]) == 0
    assert "1 done" in capsys.readouterr().out


def test_finished_results_that_may_only_be_read_are_done(public):
    suite = public / "suite.yaml"
    suite.write_text(SUITE.replace("seeds: 3", "seeds: 1"))
    words = [str(suite), "--results", str(public / "results"), "--executor", "debug"]
    assert run.main(words) == 0
    assert as_reader(public, lambda: run.main(words)) == 0
    assert as_reader(public, lambda: run.main([*words, "--set", "seeds=2"])) == 2
