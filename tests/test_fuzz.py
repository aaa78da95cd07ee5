"""Odd command lines and suites, damaged files, and kills. Here some of each; more of them by

    python tests/test_fuzz.py [LINES FILES KILLS [SEED]]       default: 1000 60 60 0

which prints what was tried, held and failed, and exits with 1 if anything failed. A command line
holds if it ends in time with exit code 0, 1 or 2, prints one line of error with 2, foresaw what it
met, and sends a terminal no control characters. A damaged file holds if all commands that read it
do so, and so does `suites.run`. A kill holds if the next run ends with the numbers of a run that
was never killed.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parent)]

from helpers import ROOT, SUITE, metrics_of, spec_in

from analysis import make_figures, reproduction, synthetic
from dreamer import run_folder
from suites import audit, cancel, push, run, status
from suites.execution.attempt import execute
from suites.execution.spec import Spec
from suites.language.suite import expand

WITHIN_S = 600  # longer is a hang, also on a busy machine
ONE = SUITE.replace("seeds: 3", "seeds: 1")


def problem(main: Callable[[list[str]], int], words: list[str]) -> str | None:
    """What is wrong with how the command ended; None if nothing is."""
    out, err = io.StringIO(), io.StringIO()

    def late(*_: object) -> None:
        raise BaseException("it hangs")

    environment = dict(os.environ)  # --mongo sets a variable
    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(WITHIN_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGALRM, old)
    shown = out.getvalue() + err.getvalue()
    errors = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if "Traceback" in shown or "(unexpected" in shown:
        return shown[-500:]
    if code == 2 and len(errors) != 1:
        return f"{len(errors)} lines of error: {shown[-500:]}"
    if not shown.replace("\n", "").replace("\t", "").isprintable():
        return f"control characters: {shown!r}"
    return None


# --- Command lines --------------------------------------------------------------------------------

NUMBERS = ["0", "-1", "1", "nan", "inf", "-inf", "1e400", "9" * 350, "0x10", "1_000", "٣", "1e-400",
           "", " ", "2.5", "1e5", "true", "~"]  # fmt: skip
NAMES = ["x", "é—€", "x" * 300, "a b", "\x1b[31mred", "../..", "{}", "[", "*", "%s", "-",
         "--", "=", "a=b=c", "\udc80", "None", "\u202e"]  # fmt: skip
SETTINGS = ["horizon", "seed", "seeds", "task", "preset", "behaviour", "kl_scale", "env_steps",
            "device", "model_learning_rate", "length", "horizn", "suites"]  # fmt: skip


def command_line(random: random.Random, folder: Path) -> tuple[Callable, list[str]]:
    """A command with odd options. It trains nothing, and writes below `folder` alone."""
    value = lambda: random.choice(NUMBERS + NAMES)  # noqa: E731
    suite = random.choice([str(folder / "suite.yaml"), *places(random, folder)])
    pair = lambda: f"{random.choice([*SETTINGS, value()])}={value()}"  # noqa: E731
    choices: dict[Callable, list[list[str]]] = {
        run.main: [["--executor", value()], ["--workers", value()], ["--profile", value()],
                   ["--mongo", value()], ["--format", random.choice(["json", value()])]],
        status.main: [["--format", random.choice(["json", value()])]],
        audit.main: [["--run", value()], ["--mongo", value()], ["--push"]],
        push.main: [["--mongo", value()]],
        cancel.main: [["--forget"]],
        make_figures.main: [["--at", value()], ["--last", value()], ["--metric", value()],
                            ["--band", value()], ["--reference", *places(random, folder)],
                            ["--out", *places(random, folder)], ["--html", *places(random, folder)],
                            ["--export", *places(random, folder)]],
        reproduction.main: [["--at", value()], ["--margin", value()], ["--method", value()],
                            ["--reference", *places(random, folder)]],
    }  # fmt: skip
    main = random.choice(list(choices))
    words = ["--results", random.choice([str(folder / "results"), *places(random, folder)])]
    drawing = main in (make_figures.main, reproduction.main)
    common = (
        [[value()]] if drawing else [["--set", pair()], ["--only", pair()], ["--except", pair()]]
    )
    for option in random.choices([*choices[main], *common], k=random.randrange(1, 4)):
        words += option
    words += ["--suite", suite] if drawing else [suite]
    if main is run.main:
        words += [random.choice(["--dry-run", "--plan"])]
    if main is status.main:
        words = [word for word in words if not word.startswith("--w")]
    return main, words


def places(random: random.Random, folder: Path) -> list[str]:
    """A path that is no file, no folder, no suite or no place."""
    names = ["pipe", "zero", "empty", "binary", "folder", "no/where", "suite.yaml/x", "x" * 300]
    return [random.choice([*(str(folder / name) for name in names), "/proc/x/y"])]


def mutated_suite(random: random.Random) -> str:
    lines = SUITE.splitlines()
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(lines))
        key = lines[at].split(":")[0]
        lines[at] = random.choice([
            f"{key}: {random.choice(NUMBERS + NAMES)}", "", lines[at] * 2, f"  {lines[at]}",
            f"{random.choice(SETTINGS)}: [{random.choice(NUMBERS)}, {random.choice(NUMBERS)}]",
            "include: suite.yaml", "zip: {seed: 3}", f"{random.choice(NAMES)}: {{a: b}}",
            "figures: [bars]", "x: {setting: y}", "runs_per_gpu: two", "executor: []",
        ])  # fmt: skip
    return "\n".join(lines)


def try_lines(count: int, folder: Path, seed: int) -> Iterator[str | None]:
    chance = random.Random(seed)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "empty").write_text("")
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "suite.yaml").write_text(ONE)
    synthetic.write_suites(folder / "results", [folder / "suite.yaml"])
    for _ in range(count):
        mutated = mutated_suite(chance) if chance.random() < 0.5 else ONE
        (folder / "suite.yaml").write_bytes(mutated.encode("utf-8", "surrogateescape"))
        main, words = command_line(chance, folder)
        found = problem(main, words)
        yield found and f"{main.__module__} {words} of {mutated!r}: {found}"


# --- Damaged files --------------------------------------------------------------------------------


def stopped_run(folder: Path) -> Path:
    """A results folder whose one run was stopped, and its suite beside."""
    suite = folder / "suite.yaml"
    suite.write_text(ONE)
    [one] = expand(suite).runs
    spec = Spec(one.run_id, one.config, ["suite"], str(folder / "results"))
    checkpoints = spec.folder / run_folder.CHECKPOINTS
    ended = execute(spec, lambda: len(run_folder.checkpoint_paths(checkpoints)) >= 2)
    assert ended["status"] == "INTERRUPTED", ended
    return suite


def damage(path: Path, random: random.Random) -> str:
    """Damages the file in some way, and says how."""
    data = path.read_bytes()
    kind = random.choice(["cut", "empty", "zeros", "noise", "bit", "pipe", "folder", "gone", "json",
                          "device", "longer"])  # fmt: skip
    if kind in ("pipe", "folder", "gone", "device"):
        path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind != "gone":
        at = random.randrange(max(1, len(data)))
        flipped = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :] if data else b"x"
        path.write_bytes({
            "cut": data[:at], "empty": b"", "zeros": bytes(len(data)),
            "noise": random.randbytes(len(data)), "bit": flipped, "longer": data + b'{"a": [1}\n',
            "json": random.choice([b"[]", b"null", b'{"status": 3}', b"[" * 10**5]),
        }[kind])  # fmt: skip
    return kind


def try_files(count: int, folder: Path, seed: int) -> Iterator[str | None]:
    chance = random.Random(seed)
    suite = stopped_run(folder)
    kept = folder / "results"
    files = sorted(p.relative_to(kept) for p in kept.rglob("*") if p.is_file())
    for number in range(count):
        results = folder / f"copy-{number}"
        shutil.copytree(kept, results)
        path = chance.choice(files)
        kind = damage(results / path, chance)
        words = [str(suite), "--results", str(results)]
        mains = [(m, words) for m in (status.main, audit.main, cancel.main)]
        mains += [(make_figures.main, ["--suite", *words])]
        mains += [(run.main, [*words, "--workers", "1"]), (status.main, words)]
        found = (f"{main.__module__}: {text}" for main, w in mains if (text := problem(main, w)))
        text = next(found, None)
        yield text and f"{kind} {path}: {text}"
        shutil.rmtree(results)


# --- Kills ----------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
name, left = {name!r}, {count}
real = getattr(os, name)
def counted(*arguments, **named):
    global left
    left -= 1
    if left == 0 and {before}:
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*arguments, **named)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(os, name, counted)
from suites.execution.attempt import execute
from suites.execution.spec import Spec
execute(Spec.from_json(sys.stdin.readline()))
"""
# Functions by which files change, and about how often a small run calls them.
CALLS = {"replace": 20, "fsync": 20, "unlink": 10, "open": 60, "pwrite": 20, "truncate": 1}


def try_kills(count: int, folder: Path, seed: int) -> Iterator[str | None]:
    chance = random.Random(seed)
    expected = spec_in(folder / "whole")
    assert execute(expected)["status"] == "COMPLETED"
    for number in range(count):
        name, most = chance.choice(list(CALLS.items()))
        spec = spec_in(folder / f"killed-{number}")
        killed = 0
        for _ in range(chance.choice([1, 1, 2])):
            at = chance.randrange(1, most + 1)
            program = KILLED.format(
                paths=[str(ROOT)], name=name, count=at, before=chance.random() < 0.5
            )
            done = subprocess.run(
                [sys.executable, "-c", program], input=spec.to_json() + "\n", text=True,
                capture_output=True, timeout=WITHIN_S,
            )  # fmt: skip
            killed += done.returncode == -signal.SIGKILL
        try:
            ended = execute(spec)
            same = metrics_of(spec) == metrics_of(expected)
            text = None if ended["status"] == "COMPLETED" and same else f"{ended['error']}, {same=}"
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        yield text and f"{killed} kills at call {at} of os.{name}: {text}"
        shutil.rmtree(spec.results)


# --- Some of each ---------------------------------------------------------------------------------


def test_odd_command_lines_hold(tmp_path):
    assert [found for found in try_lines(120, tmp_path, seed=1) if found] == []


@pytest.mark.slow
def test_damaged_files_hold(tmp_path):
    assert [found for found in try_files(6, tmp_path, seed=1) if found] == []


@pytest.mark.slow
def test_a_pipe_in_place_of_any_file_holds_up_no_reader(tmp_path):
    suite = stopped_run(tmp_path)
    words = [str(suite), "--results", str(tmp_path / "results")]
    mains = [(main, words) for main in (status.main, audit.main, cancel.main)]
    mains += [(make_figures.main, ["--suite", *words])]
    for path in [p for p in (tmp_path / "results").rglob("*") if p.is_file()]:
        path.rename(tmp_path / "kept")
        os.mkfifo(path)
        assert [text for main, w in mains if (text := problem(main, w))] == [], path
        path.unlink()
        (tmp_path / "kept").rename(path)


@pytest.mark.slow
def test_kills_hold(tmp_path):
    assert [found for found in try_kills(4, tmp_path, seed=1) if found] == []


def main() -> int:
    given = [int(word) for word in sys.argv[1:]]
    counts, seed = (given[:3] if given else [1000, 60, 60]), given[3] if len(given) > 3 else 0
    failed = 0
    kinds = {"command lines": try_lines, "damaged files": try_files, "kills": try_kills}
    for (name, tries), count in zip(kinds.items(), counts, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            found = []
            for text in tries(count, Path(folder), seed):
                found.append(text)
                if text:
                    print(f"FAILED {text[:2000]}", flush=True)
        wrong = sum(text is not None for text in found)
        failed += wrong
        print(f"{name}: {len(found)} tried, {len(found) - wrong} held, {wrong} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
