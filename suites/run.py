"""Run suites: whatever is not done yet is done, whatever is done stays.

    python -m suites.run suites/quickstart.yaml
    python -m suites.run suites/figure6.yaml --plan
    python -m suites.run suites/figure6.yaml --only 'task=walker_*' --set env_steps=1e5

Exit code 0: all runs are done; 1: some are not; 2: bad input.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dreamer.config import UserError
from suites import command
from suites import forecast as plan
from suites.command import as_text
from suites.execution import cluster
from suites.execution.cluster import look
from suites.language import suite as expand
from suites.language.suite import Run, Suite
from suites.record import folder as records
from suites.record import mongo_urls, provenance

ASK_ABOVE_HOURS = 24.0
MAX_NAMED = 20  # runs that are named one by one


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command.main(parse, run, arguments)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command.parser("run", __doc__.splitlines()[0])
    add = parser.add_argument
    add("--dry-run", action="store_true", help="show the runs and stop")
    add("--plan", action="store_true", help="show what is left and what it takes, and stop")
    add("--format", choices=("text", "json"), default="text", help="of --dry-run and --plan")
    add("--executor", choices=("auto", *expand.EXECUTORS), default="auto",
        help="auto: what the suite names")  # fmt: skip
    add("--workers", type=int, metavar="N", help="runs at a time on this machine")
    add("--profile", metavar="NAME", help="of slurm/profiles.yaml; default: what the suite names")
    add("--doctor", action="store_true", help="examine a node of the cluster before submitting")
    add("--mongo", metavar="URL", help="a MongoDB to tell as well; also DREAMER_MONGO_URL")
    add("--retry-failed", action="store_true", help="failed runs get another attempt")
    add("--fresh", action="store_true",
        help="set earlier results of these runs aside and begin anew")  # fmt: skip
    add("--yes", action="store_true", help="do not ask before days of work")
    options = parser.parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        raise UserError("--workers: at least 1")
    return options


def run(options: argparse.Namespace) -> int:
    suites, runs = command.chosen(options)
    as_json = options.format == "json"
    if options.dry_run or (as_json and not options.plan):
        print(json.dumps(list(map(as_row, runs)), indent=2) if as_json else table(runs))
        return 0
    executor = choose_executor(options.executor, suites)
    statuses = look(options.results, runs)
    workers, gpu_names = _workers(options.workers, suites, runs)
    device = "gpu" if executor == "slurm" or gpu_names else "cpu"
    if executor == "slurm":
        workers = cluster.at_a_time(_profile(suites, options), _per_gpu(suites))
    the_plan = plan.make_plan(runs, statuses, device, workers)
    if options.plan:
        print(json.dumps(the_plan._asdict(), indent=2) if as_json else plan.text(the_plan))
        if executor == "slurm" and not as_json:
            left = len(choose(options, runs, statuses))
            print(cluster.forecast_text(left, _profile(suites, options), _per_gpu(suites)))
        return 0
    if executor != "slurm" and not options.yes:
        confirm(the_plan)
    mongo = _mongo(options.mongo, suites)
    prepare(options.results, suites, runs)
    todo = choose(options, runs, statuses)
    specs = [_spec(r, options.results, executor, mongo) for r in todo]
    if specs and executor == "slurm":
        return _submit(specs, suites, options, the_plan.disk_gb)
    if specs:
        _warn_of_other_code(todo, statuses)
        _execute(specs, executor, workers, gpu_names)
    return report(options.results, runs)


# --- Which runs -----------------------------------------------------------------------------------


def choose(options: argparse.Namespace, runs: Sequence[Run], statuses: Any) -> list[Run]:
    """The runs to execute now; --fresh sets earlier results aside first."""
    taken = (records.RUNNING, records.QUEUED)
    busy = [r.run_id for r in runs if statuses[r.run_id][0] in taken]
    unsure = [r.run_id for r in runs if _is_unsure(*statuses[r.run_id])]
    if options.fresh:
        if busy:
            raise UserError(f"--fresh: {busy[0]} is {statuses[busy[0]][0]}; stop it first")
        if unsure:
            raise UserError(f"--fresh: {unsure[0]} may be queued; SLURM cannot be asked")
        for r in runs:
            set_aside(options.results, r.run_id)
        return list(runs)
    skipped = {records.DONE, *taken}
    if not options.retry_failed:
        skipped.add(records.FAILED)
    for run_id in busy[:MAX_NAMED]:
        print(f"skip  {run_id}: {statuses[run_id][0]} elsewhere", file=sys.stderr)
    for run_id in unsure[:MAX_NAMED]:
        print(
            f"skip  {run_id}: SLURM may have it and cannot be asked"
            " (a cluster that is gone for good: suites.cancel --forget)",
            file=sys.stderr,
        )
    named = min(len(busy), MAX_NAMED) + min(len(unsure), MAX_NAMED)
    if len(busy) + len(unsure) > named:
        print(f"      and {len(busy) + len(unsure) - named} more", file=sys.stderr)
    return [
        r
        for r in runs
        if statuses[r.run_id][0] not in skipped and not _is_unsure(*statuses[r.run_id])
    ]


def _is_unsure(state: str, status: records.Status | None) -> bool:
    """Submitted to a SLURM that does not answer."""
    return state == records.UNKNOWN and "slurm" in (status or {})


def set_aside(results: Path, run_id: str) -> None:
    """Moves a run's folder to `results/discarded`; nothing is deleted."""
    folder = records.run_folder(results, run_id)
    if not folder.exists():
        return
    number = max(records.attempts(folder), default=0)
    aside = results / "discarded" / f"{run_id}-{number}"
    while aside.exists():
        number += 1
        aside = aside.with_name(f"{run_id}-{number}")
    try:
        records.make_folder(aside.parent)
        folder.rename(aside)
    except OSError as error:
        raise UserError(f"{folder}: cannot be set aside: {error.strerror}") from None


# --- What is shown --------------------------------------------------------------------------------


def as_row(r: Run) -> dict[str, Any]:
    keys = ("task", "behaviour", "representation", "seed", "preset", "env_steps")
    settings = {key: r.config[key] for key in keys}
    return {"run_id": r.run_id, "suites": list(r.suites), **settings, "config": r.config}


def table(runs: Sequence[Run]) -> str:
    """A line for each group of runs that differ only in their seed."""
    from suites.execution.display import group_by_seed

    heading = ("task", "behaviour", "representation", "preset", "env_steps", "seeds", "settings")
    rows = [heading]
    shown = {"task", "behaviour", "representation", "preset", "env_steps"}
    for r, seeds in group_by_seed(list(runs)):
        c = r.config
        rest = {k: v for k, v in expand.overrides_of(c).items() if k not in shown}
        rows.append((
            c["task"], c["behaviour"], c["representation"], c["preset"], f"{c['env_steps']:,}",
            ",".join(map(str, seeds)), " ".join(f"{k}={as_text(v)}" for k, v in rest.items()),
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(heading))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    total = sum(r.config["env_steps"] for r in runs)
    return "\n".join([*lines, f"{len(runs)} runs, {total:,} env_steps"])


def confirm(the_plan: plan.Plan) -> None:
    """A plan of more than a day on this machine is shown and asks first."""
    hours = the_plan.elapsed_hours
    if hours <= ASK_ABOVE_HOURS:
        return
    print(plan.text(the_plan), file=sys.stderr)
    if not sys.stdin.isatty():
        raise UserError(f"{plan.duration(hours)} on this machine; --yes if that is meant")
    if input("Start? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("not started")


def note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def report(results: Path, runs: Sequence[Run]) -> int:
    """The last word: how many runs are in which state; 0 if all are done."""
    statuses = look(results, runs)
    counts = dict.fromkeys(records.STATES, 0)
    for state, _ in statuses.values():
        counts[state] += 1
    for run_id, (state, status) in statuses.items():
        if state == records.FAILED:
            attempt = (
                records.run_folder(results, run_id)
                / "attempts"
                / str((status or {}).get("attempt"))
            )
            print(f"FAILED {run_id}: {(status or {}).get('error')}; see {attempt}", file=sys.stderr)
    print(", ".join(f"{n} {state}" for state, n in counts.items() if n))
    if counts[records.FAILED]:
        print("failed runs get another attempt with --retry-failed", file=sys.stderr)
    return 0 if counts[records.DONE] == len(runs) else 1


# --- Doing it -------------------------------------------------------------------------------------


def choose_executor(asked: str, suites: Sequence[Suite]) -> str:
    """`auto` is what the suites name; SLURM falls back to this machine where there is no sbatch."""
    if asked != "auto":
        return asked
    named = {suite.executor for suite in suites}
    if len(named) > 1:
        names = " and ".join(sorted(named))
        raise UserError(f"the suites name {names} as executor; choose one with --executor")
    executor = named.pop()
    if executor == "slurm" and shutil.which("sbatch") is None:
        note("the suite is meant for SLURM, but there is no sbatch here: running locally")
        return "local"
    return executor


def prepare(results: Path, suites: Sequence[Suite], runs: Sequence[Run]) -> None:
    """The results folder, and what was expanded from which suite."""
    records.make_folder(results / "runs")
    records.make_folder(results / "sacred")
    for suite in suites:
        folder = results / "suites" / suite.name
        records.make_folder(folder)
        records.write_json(folder / "runs.json", [as_row(r) for r in suite.runs], indent=None)


def _workers(
    asked: int | None, suites: Sequence[Suite], runs: Sequence[Run]
) -> tuple[int, list[str]]:
    from suites.execution.local import default_workers, gpus

    names = [] if all(r.config["device"] == "cpu" for r in runs) else gpus()
    per_gpu = _per_gpu(suites)
    given = [suite.workers for suite in suites if suite.workers]
    return asked or max(given, default=default_workers(len(names), per_gpu)), names


def _mongo(asked: str | None, suites: Sequence[Suite]) -> list[str]:
    """The servers that the suites name; credentials travel in the environment only."""
    named = tuple(dict.fromkeys(url for suite in suites for url in suite.observers))
    if asked:
        mongo_urls.give(asked)
    mongo_urls.all_urls(named)  # complains now about what is malformed
    return list(named)


def _spec(r: Run, results: Path, executor: str, mongo: list[str]) -> Any:
    from suites.execution.attempt import Spec

    words = ["python", "-m", "suites.run", *map(provenance.without_credentials, sys.argv[1:])]
    return Spec(r.run_id, r.config, list(r.suites), str(results.resolve()), executor, mongo, words)


def _warn_of_other_code(runs: Iterable[Run], statuses: Any) -> None:
    """Runs that were begun with other code are named, not mixed silently."""
    version = provenance.code().version
    older: dict[str, int] = {}
    for r in runs:
        begun = (statuses[r.run_id][1] or {}).get("code")
        if begun and begun != version:
            older[begun] = older.get(begun, 0) + 1
    for begun, count in older.items():
        print(
            f"note: {count} runs begun with code {begun} continue with {version}", file=sys.stderr
        )


def _execute(specs: list[Any], executor: str, workers: int, gpu_names: list[str]) -> None:
    from suites.execution.display import make_display

    display = make_display(len(specs))
    try:
        if executor == "debug":
            _execute_here(specs, display)
        else:
            from suites.execution.local import run_local

            run_local(specs, workers, gpu_names, display)
    finally:
        display.close()


def _execute_here(specs: list[Any], display: Any) -> None:
    """In this process, one after another: for a debugger. An interrupted run ends the row."""
    from suites.execution.attempt import execute

    for spec in specs:
        display.started(spec)
        try:
            status = execute(spec, on_status=lambda status: display.running(spec, status))  # noqa: B023
        except records.BusyError as error:
            display.ended(spec, {}, str(error))
            continue
        display.ended(spec, status, "")
        if status["status"] == "INTERRUPTED":
            return


def _submit(specs: list[Any], suites: Sequence[Suite], options: argparse.Namespace,
            disk_gb: float) -> int:  # fmt: skip
    """Hands the runs to SLURM and returns; `suites.status` tells how they fare. `disk_gb`: what
    they will need, by the plan."""
    profile = _profile(suites, options)
    if options.doctor:
        from slurm.doctor import examine

        named = [url for suite in suites for url in suite.observers]
        if examine(profile.name, options.results, needs_gb=disk_gb, mongo=named) != 0:
            raise UserError("the doctor found something (see above); nothing is submitted")
    return cluster.submit(specs, options.results, suites[0].name, profile, _per_gpu(suites))


def _per_gpu(suites: Sequence[Suite]) -> int:
    return max(suite.runs_per_gpu for suite in suites)


def _profile(suites: Sequence[Suite], options: argparse.Namespace) -> Any:
    from slurm.sbatch import load_profile

    return load_profile(options.profile or next((s.profile for s in suites if s.profile), None))


if __name__ == "__main__":
    sys.exit(main())
