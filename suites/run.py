"""Run a suite: every run that is not finished yet.

    python -m suites.run suites/quickstart.yaml
    python -m suites.run suites/figure6.yaml --plan
    python -m suites.run suites/figure6.yaml --only 'task=walker_*' --set env_steps=1e5

Finished runs are skipped; interrupted ones continue from their last checkpoint. Exit code 0: all
runs are done, or submitted; 1: some are not; 2: bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamer import run_folder
from dreamer.errors import UserError, counted
from dreamer.run_folder import State, StatusRecord
from suites import command, forecast
from suites.command import aligned, as_text, group_by_seed, varying
from suites.execution.executor import Executor, Found, Request
from suites.execution.executors import EXECUTORS, FALLBACK, states
from suites.execution.spec import Spec
from suites.execution.trial import try_tasks
from suites.forecast import Forecast, make_forecast
from suites.language.suite import Run, Suite
from suites.record import mongo_urls, provenance
from suites.record.folder import locked, look, make_folder
from suites.record.lost_status import restore
from suites.record.secrets import hide_word

ASK_ABOVE_HOURS = 24.0
MAX_WORKERS = 10_000
MAX_NAMED = 20  # skipped runs that are listed
LOST = (State.MISSING, State.UNKNOWN)  # what a run seems to be without a status


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command.main(parse, run, arguments)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command.parser("run", __doc__.splitlines()[0])
    add = parser.add_argument
    add("--dry-run", action="store_true", help="list the runs and stop")
    add("--plan", action="store_true", help="show which runs are left and what they take, and stop")
    add("--format", choices=("text", "json"), default="text", help="of --dry-run and --plan")
    add("--executor", choices=("auto", *EXECUTORS), default="auto",
        help="where to execute the runs; auto: as the suite says")  # fmt: skip
    add("--workers", type=int, metavar="N", help="runs at a time on this machine")
    add("--profile", metavar="NAME", help="of slurm/profiles.yaml; default: as the suite says")
    add("--doctor", action="store_true", help="check a node of the cluster before submitting")
    add("--mongo", metavar="URL", help="send records to this MongoDB too; also DREAMER_MONGO_URL")
    add("--retry-failed", action="store_true", help="start failed runs again")
    add("--fresh", action="store_true",
        help="move earlier results of these runs to DIR/discarded and start anew")  # fmt: skip
    add("--yes", action="store_true",
        help="do not ask before a day of work, or where the disk seems too small")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.workers is not None and not 1 <= options.workers <= MAX_WORKERS:
        raise UserError(f"--workers: from 1 to {MAX_WORKERS}")
    return options


def run(options: argparse.Namespace) -> int:
    suites, runs = command.chosen(options)
    as_json = options.format == "json"
    if options.dry_run or (as_json and not options.plan):
        print(json.dumps(list(map(as_row, runs)), indent=2) if as_json else table(runs))
        return 0
    executor = choose_executor(options.executor, suites)
    configs = {r.run_id: r.config for r in runs}
    found = states(options.results, configs)
    if not (options.plan or options.fresh) and restore_statuses(options.results, runs, found):
        found = states(options.results, configs)
    request = make_request(options, suites, runs)
    capacity = executor.at_a_time(request)
    ended = [] if options.fresh else without_replay(options.results, runs, found)
    expected = make_forecast(runs, found, capacity.device, capacity.runs, ended)
    if options.plan:
        free = forecast.free_gb(options.results)
        if as_json:
            print(json.dumps({**expected._asdict(), "disk_free_gb": free}, indent=2))
        else:
            print(forecast.text(expected, free))
        line = executor.forecast(len(left(options, runs, found)), request)
        if line and not as_json:
            print(line)
        return 0
    if not options.yes and not options.doctor:  # the doctor looks at the disk itself
        check_disk(expected, options.results)
    if executor.on_this_machine and not options.yes:
        confirm(expected, options.results)
        found = states(options.results, configs)  # again: the answer may have taken a while
    observers = _observers(options.mongo, suites)
    if executor.on_this_machine:
        try_tasks(r.config for r in left(options, runs, found))
    prepare(options.results, suites, runs)
    todo = choose(options, runs, found)
    if todo:
        _note_other_code(todo, found)
        specs = [_spec(r, options.results, executor, observers) for r in todo]
        request = dataclasses.replace(request, disk_gb=expected.disk_gb)
        code = executor.execute(specs, request)
        if code is not None:
            print("its state: python -m suites.status, with the same suites", file=sys.stderr)
            return code
    return report(options, runs)


# --- Which runs -----------------------------------------------------------------------------------


def choose(
    options: argparse.Namespace, runs: Sequence[Run], found: Mapping[str, Found]
) -> list[Run]:
    """The runs to execute now; names those that are skipped because someone else has them. With
    --fresh their earlier results are set aside first."""
    taken = (State.RUNNING, State.QUEUED)
    busy = [r.run_id for r in runs if found[r.run_id][0] in taken]
    unsure = {r.run_id: text for r in runs if (text := unsure_because(*found[r.run_id]))}
    if options.fresh:
        if busy:
            raise UserError(f"--fresh: {busy[0]} is {found[busy[0]][0]}; stop it first")
        for run_id, text in unsure.items():
            raise UserError(f"--fresh: {run_id}: {text}")
        for r in runs:
            set_aside(options.results, r.run_id)
        return list(runs)
    ended = without_replay(options.results, runs, found)
    for run_id in ended[:MAX_NAMED]:
        print(f"skip  {run_id}: without its replay a larger budget needs --fresh", file=sys.stderr)
    for run_id in busy[:MAX_NAMED]:
        print(f"skip  {run_id}: {found[run_id][0]} elsewhere", file=sys.stderr)
    for run_id, text in list(unsure.items())[:MAX_NAMED]:
        print(f"skip  {run_id}: {text}", file=sys.stderr)
    skipped = (ended, busy, unsure)
    unnamed = sum(max(0, len(names) - MAX_NAMED) for names in skipped)
    if unnamed:
        print(f"      and {unnamed} more", file=sys.stderr)
    return [r for r in left(options, runs, found) if r.run_id not in set(ended)]


def without_replay(results: Path, runs: Sequence[Run], found: Mapping[str, Found]) -> list[str]:
    """Runs that ended at a smaller budget and whose replay was discarded since."""
    folders = {r.run_id: run_folder.run_path(results, r.run_id) for r in runs}
    return [
        run_id
        for run_id, folder in folders.items()
        if found[run_id][0] == State.STOPPED and run_folder.discarded_replay(folder) is not None
    ]


def restore_statuses(results: Path, runs: Sequence[Run], found: Mapping[str, Found]) -> bool:
    """Writes the status of finished runs anew that have lost it and cannot be trained once more;
    says so, and returns whether there were some."""
    lost = [r for r in runs if found[r.run_id][0] in LOST and not found[r.run_id][1]]
    restored = [r for r in lost if restore(run_folder.run_path(results, r.run_id), r.config)]
    for r in restored:
        known = "its last checkpoint and its metrics show that it is done"
        note(f"{r.run_id}: {run_folder.STATUS} was lost; {known}; written anew")
    return bool(restored)


def left(options: argparse.Namespace, runs: Sequence[Run], found: Mapping[str, Found]) -> list[Run]:
    """The runs that are neither finished nor taken, nor failed without --retry-failed."""
    if options.fresh:
        return list(runs)
    skipped = {State.DONE, State.RUNNING, State.QUEUED}
    if not options.retry_failed:
        skipped.add(State.FAILED)
    return [
        r
        for r in runs
        if found[r.run_id][0] not in skipped and not unsure_because(*found[r.run_id])
    ]


def unsure_because(state: State, status: StatusRecord | None) -> str | None:
    """Why an executor cannot tell whether it has the run; None if that is known."""
    return (status or {}).get("unsure") if state == State.UNKNOWN else None


def set_aside(results: Path, run_id: str) -> None:
    """Moves a run's folder to `results/discarded`; nothing is deleted. Decides under the run's
    lock, since it may have been started in the meantime: raises UserError then."""
    folder = run_folder.run_path(results, run_id)
    if not folder.exists():
        return
    with locked(folder):
        state, status = look(folder, holding=True)
        if state == State.RUNNING or unsure_because(state, status):
            host = (status or {}).get("host")
            raise UserError(f"--fresh: {run_id} is running on {host}; stop it first")
        _move(results, run_id, folder)


def _move(results: Path, run_id: str, folder: Path) -> None:
    number = max(run_folder.attempts(folder), default=0)
    aside = run_folder.discarded_path(results, run_id, number)
    while aside.exists():
        number += 1
        aside = run_folder.discarded_path(results, run_id, number)
    try:
        make_folder(aside.parent)
        folder.rename(aside)
    except OSError as error:
        raise UserError(f"{folder}: cannot be set aside: {error.strerror}") from None


# --- What is shown --------------------------------------------------------------------------------


def as_row(r: Run) -> dict[str, Any]:
    keys = ("task", "behaviour", "representation", "seed", "preset", "env_steps")
    settings = {key: r.config[key] for key in keys}
    return {"run_id": r.run_id, "suites": list(r.suites), **settings, "config": r.config}


def table(runs: Sequence[Run]) -> str:
    """A line for each group of runs that differ only in their seed, with the settings that tell the
    groups apart."""
    groups = group_by_seed(runs)
    shown = list(dict.fromkeys(("task", *varying([r.config for r, _ in groups]))))
    rows = [(*shown, "seeds")]
    for r, seeds in groups:
        cells = (r.config[key] for key in shown)
        texts = (f"{cell:,}" if type(cell) is int else as_text(cell) for cell in cells)
        rows.append((*texts, ",".join(map(str, seeds))))
    total = sum(r.config["env_steps"] for r in runs)
    return "\n".join([*aligned(rows), f"{counted(len(runs), 'run')}, {total:,} env_steps"])


def check_disk(expected: Forecast, results: Path) -> None:
    """Raises UserError if the disk is too small for the plan."""
    free = forecast.free_gb(results)
    if expected.disk_gb > free:
        needed, there = (run_folder.size_text(gb * 1e9) for gb in (expected.disk_gb, free))
        raise UserError(
            f"--results {results}: the runs need {needed} at their peak and {there} are free; "
            "free some (suites.clean), take another disk, or --yes"
        )


def confirm(expected: Forecast, results: Path) -> None:
    """Asks before more than a day of work on this machine."""
    hours = expected.elapsed_hours
    if hours <= ASK_ABOVE_HOURS:
        return
    print(forecast.text(expected, forecast.free_gb(results)), file=sys.stderr)
    if not sys.stdin.isatty():
        raise UserError(f"{forecast.duration(hours)} on this machine; --yes if that is meant")
    if not command.agreed("Start?"):
        raise UserError("not started")


def note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def report(options: argparse.Namespace, runs: Sequence[Run]) -> int:
    """Prints how many runs are in which state, where they lie and what to type next; returns 0 if
    all are done."""
    results: Path = options.results
    found = states(results, {r.run_id: r.config for r in runs})
    counts = dict.fromkeys(State, 0)
    for state, _ in found.values():
        counts[state] += 1
    for run_id, (state, status) in found.items():
        if state == State.FAILED:
            folder = run_folder.run_path(results, run_id)
            see = run_folder.see(folder, (status or {}).get("attempt"))
            print(f"FAILED {run_id}: {(status or {}).get('error')}{see}", file=sys.stderr)
    print(", ".join(f"{n} {state}" for state, n in counts.items() if n))
    if counts[State.FAILED]:
        print("--retry-failed starts failed runs again", file=sys.stderr)
    waiting = len(runs) - counts[State.DONE] - counts[State.FAILED]
    if waiting:
        print("the same command continues the runs that are left", file=sys.stderr)
    words = [*options.suites, *([] if results == run_folder.RESULTS else ["--results", results])]
    given = shlex.join(map(str, words))
    print(f"records: {run_folder.runs_path(results)}", file=sys.stderr)
    if counts[State.DONE]:
        print(f"figures: python -m analysis.make_figures {given}", file=sys.stderr)
    return 0 if counts[State.DONE] == len(runs) else 1


# --- Execution ------------------------------------------------------------------------------------


def choose_executor(asked: str, suites: Sequence[Suite]) -> Executor:
    """The executor with the name that was asked for; for `auto` the one that the suites name, or
    FALLBACK where it cannot be used."""
    if asked != "auto":
        return EXECUTORS[asked]
    named = {suite.executor for suite in suites}
    if len(named) > 1:
        names = " and ".join(sorted(named))
        raise UserError(f"the suites name {names} as executor; choose one with --executor")
    executor = EXECUTORS[named.pop()]
    if (reason := executor.missing()) is not None:
        note(f"the suite names executor {executor.name}, but {reason}: using {FALLBACK.name}")
        return FALLBACK
    return executor


def make_request(
    options: argparse.Namespace, suites: Sequence[Suite], runs: Sequence[Run]
) -> Request:
    """What the options, and where they say nothing the suites, ask of the executor."""
    workers = max((suite.workers for suite in suites if suite.workers), default=None)
    profile = next((suite.profile for suite in suites if suite.profile), None)
    return Request(
        results=options.results,
        suite=suites[0].name,
        workers=options.workers or workers,
        runs_per_gpu=max(suite.runs_per_gpu for suite in suites),
        on_gpu=any(r.config["device"] != "cpu" for r in runs),
        profile=options.profile or profile,
        observers=tuple(url for suite in suites for url in suite.observers),
        doctor=options.doctor,
    )


def prepare(results: Path, suites: Sequence[Suite], runs: Sequence[Run]) -> None:
    """Makes the results folder and writes the runs of each suite into it. Raises UserError if two
    suites have one name, since results of suites are kept by name."""
    files: dict[str, Path] = {}
    for suite in suites:
        first = files.setdefault(suite.name, suite.path)
        other = first if not first.samefile(suite.path) else _namesake(results, suite)
        if other:
            raise UserError(f"{suite.path}: {other} has this name, too; rename one of them")
    make_folder(run_folder.runs_path(results))
    make_folder(run_folder.sacred_path(results))
    for suite in suites:
        path = run_folder.suite_runs_path(results, suite.name)
        make_folder(path.parent)
        run_folder.write_json(path, [as_row(r) for r in suite.runs], indent=None)
        origin = {"file": str(suite.path.resolve()), "runs": [r.run_id for r in suite.runs]}
        run_folder.write_json(run_folder.suite_origin_path(results, suite.name), origin)


def _namesake(results: Path, suite: Suite) -> Path | None:
    """Another file whose suite has this name in these results and no run of this one; a copy, or an
    earlier version, has some."""
    origin = run_folder.read_json(run_folder.suite_origin_path(results, suite.name)) or {}
    file = Path(str(origin.get("file")))
    if not file.is_file() or file.samefile(suite.path):
        return None
    return None if {r.run_id for r in suite.runs} & set(origin.get("runs") or ()) else file


def _observers(asked: str | None, suites: Sequence[Suite]) -> list[str]:
    """The MongoDB servers that the suites name. That of --mongo goes into the environment, the only
    place for credentials."""
    named = tuple(dict.fromkeys(url for suite in suites for url in suite.observers))
    if asked:
        mongo_urls.give(asked)
    mongo_urls.check(named)  # raises now if one is malformed
    return list(named)


def _spec(r: Run, results: Path, executor: Executor, observers: list[str]) -> Spec:
    return Spec(
        run_id=r.run_id,
        config=r.config,
        suites=list(r.suites),
        results=str(results.resolve()),
        executor=executor.name,
        observers=observers,
        command=["python", "-m", "suites.run", *map(hide_word, sys.argv[1:])],
    )


def _note_other_code(runs: Iterable[Run], found: Mapping[str, Found]) -> None:
    """Prints how many of the runs were begun with other code, and if the commit is not known."""
    code = provenance.code()
    version = code.version
    if code.problem:
        note(f"the commit of the code is not known ({code.problem}); its version is {version}")
    older: dict[str, int] = {}
    for r in runs:
        begun = (found[r.run_id][1] or {}).get("code")
        if begun and begun != version:
            older[begun] = older.get(begun, 0) + 1
    for begun, count in older.items():
        goes = "goes" if count == 1 else "go"
        note(f"{counted(count, 'run')} begun with code {begun} {goes} on with {version}")


if __name__ == "__main__":
    sys.exit(main())
