"""Check a suite's records: completeness, configuration, code versions, checksums.

    python -m suites.audit suites/figure6.yaml [--mongo URL] [--format json]
    python -m suites.audit --run RUN_ID

Compares the runs that the suite expects with the files on disk, and with MongoDB if there is one.
Each finding names the run, the attempt and what to do. An audit writes nothing; `--push` runs
`suites.push` before it. Exit code 0: no finding; 1: some; 2: bad input. Notes are no findings.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from dreamer import run_folder
from dreamer.config import BEFORE, outcome_values
from dreamer.errors import DamagedError, UserError, counted, nearest, printable
from dreamer.replay_files import check_folder as check_replay
from dreamer.run_folder import State
from suites import command
from suites.execution.environment import cores
from suites.language.suite import Run
from suites.push import send
from suites.record import mongo_urls
from suites.record.contents import Finding, RunContents, read
from suites.record.folder import look
from suites.record.metrics import read_metrics
from suites.record.mongo import connect_all

RERUN = "run the suite again"
UNKNOWN_COMMIT = "commit unknown"
NO_REPOSITORY = "no repository"
OWN = {"task": "environment"}  # what a setting's own code is called
MANY = 100  # runs, from which on several processes are quicker


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if all is well, 1 if there are findings, 2 for bad input."""
    return command.main(parse, audit, arguments)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command.parser("audit", __doc__.splitlines()[0], suites="*")
    add = parser.add_argument
    add("--run", metavar="RUN_ID", help="instead show everything about one run")
    add("--mongo", metavar="URL", help="compare with this MongoDB too; also DREAMER_MONGO_URL")
    add("--push", action="store_true", help="send to MongoDB what it lacks first, as suites.push")
    add("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(arguments)
    if bool(options.suites) == bool(options.run):
        raise UserError("give suites, or --run RUN_ID")
    return options


def audit(options: argparse.Namespace) -> int:
    if options.run:
        print(describe(options.results, options.run))
        return 0
    suites, runs = command.chosen(options)
    servers = connect_all(options.mongo, [url for suite in suites for url in suite.observers])
    if options.push:
        print(send(options.results, runs, servers), file=sys.stderr)
    contents: list[RunContents] = []
    findings: list[Finding] = []
    for r, found in check_runs(options.results, runs, with_metrics=bool(servers)):
        findings += found
        for server in servers:
            with mongo_urls.failures_told(server.url):
                findings += server.check_run(r)
        contents.append(r._replace(metrics=[]))  # of all runs they would fill the memory
    whole = not (options.only or options.leave_out)
    names = {suite.name for suite in suites} if whole else set()
    findings += check_versions(contents)
    findings += check_seeds(contents)
    findings += check_unexpected(options.results, {run.run_id for run in runs}, names)
    for server in servers:
        with mongo_urls.failures_told(server.url):
            findings += server.check_others(options.results, contents, names)
    if options.format == "json":
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        print(text(findings, len(runs)))
    return 0 if all(finding.note for finding in findings) else 1


def check_runs(
    results: Path, runs: Sequence[Run], with_metrics: bool
) -> Iterator[tuple[RunContents, list[Finding]]]:
    """What each run's folder holds, and the findings about it. Many runs are divided among the
    cores; then, and without `with_metrics`, the contents come without metrics."""
    one = functools.partial(_check_one, results, with_metrics)
    if with_metrics or len(runs) < MANY:
        yield from map(one, runs)
    else:
        with ProcessPoolExecutor(cores()) as pool:
            yield from pool.map(one, runs, chunksize=8)


def _check_one(results: Path, with_metrics: bool, run: Run) -> tuple[RunContents, list[Finding]]:
    r = read(results, run)
    findings = list(check_run(results, r))
    return (r if with_metrics else r._replace(metrics=[])), findings


# --- Checking -------------------------------------------------------------------------------------


def check_run(results: Path, r: RunContents) -> Iterator[Finding]:
    """Findings about one run by itself."""
    attempt = r.status.get("attempt")

    def finding(kind: str, text: str, todo: str) -> Finding:
        return Finding(kind, r.run.run_id, attempt, text, todo)

    if r.state == State.MISSING and not r.metrics:
        yield finding("missing", "it was never started", RERUN)
        return
    if r.state == State.FAILED:
        see = run_folder.see(r.folder, attempt, run_folder.ERROR)
        yield finding("failed", f"{r.status.get('error')}{see}", "mend it, then --retry-failed")
    elif r.state == State.DEAD:
        yield finding("dead", f"last heartbeat {r.status.get('heartbeat')}", RERUN)
    elif r.status.get("unsure"):
        yield finding("unknown", r.status["unsure"], "look again from where it can be seen")
    elif r.state != State.DONE:
        yield finding("incomplete", f"it is {r.state}", RERUN)
    if r.config is None:
        yield finding(
            "config", f"{run_folder.CONFIG} cannot be read", "restore it, or start it --fresh"
        )
    else:
        expected = outcome_values(r.run.config)
        # Settings that came later had their `before` value; what is missing is shown as None.
        recorded = outcome_values(dict.fromkeys(expected) | {"env_steps": 0} | BEFORE | r.config)
        differing = sorted(key for key in expected if recorded[key] != expected[key])
        if differing:
            shown = ", ".join(f"{k}={recorded[k]!r}" for k in differing)
            yield finding("config", f"it differs from the suite's: {shown}", "start it --fresh")
    if not r.provenances:
        yield finding("provenance", f"no attempt has a {run_folder.PROVENANCE}", "start it --fresh")
    for number in r.damaged:
        text = f"attempt {number}: {run_folder.PROVENANCE} cannot be read"
        yield finding("provenance", text, "restore it, or start it --fresh")
    yield from (finding("metrics", problem, "start it --fresh") for problem in metrics_problems(r))
    budget = r.run.config["env_steps"]
    last = r.metrics[-1]["env_steps"] if r.metrics else 0
    if r.state == State.DONE and last < budget:
        yield finding("short", f"{last:,} of {budget:,} env_steps are recorded", "start it --fresh")
    for path, todo in damaged_files(results, r):
        yield finding("checksum", f"{path} is damaged or missing", todo)
    for problem, todo in replay_problems(r):
        yield finding("replay", problem, todo)
    yield from check_sacred(results, r)


def metrics_problems(r: RunContents) -> Iterator[str]:
    """Lines that cannot be read, counters that decrease, gaps, values that are not finite."""
    yield from r.line_problems
    env_steps, updates, logged_updates, episode_end = 0, 0, 0, 0
    config = r.config or r.run.config
    for m in r.metrics:
        if m["env_steps"] < env_steps:
            yield f"env_steps goes back from {env_steps} to {m['env_steps']}"
        if m["updates"] < updates:
            yield f"updates goes back from {updates} to {m['updates']}"
        env_steps, updates, kind = m["env_steps"], m["updates"], m["kind"]
        if kind == "update":
            if updates != logged_updates + config["log_every_updates"]:
                yield f"a gap between updates {logged_updates} and {updates}"
            logged_updates = updates
        elif kind == "episode":
            if env_steps - episode_end > config["time_limit_env_steps"]:
                yield f"a gap between env_steps {episode_end} and {env_steps}"
            episode_end = env_steps


def damaged_files(results: Path, r: RunContents) -> Iterator[tuple[Path, str]]:
    """(path, what to do) for checkpoints, artifacts and Sacred's copies with a wrong checksum."""
    for path in run_folder.checkpoint_paths(r.folder / run_folder.CHECKPOINTS):
        if not _whole(path):
            older = "" if r.state == State.DONE else ": the one before is used"
            yield path, f"delete it{older}"
    for number, provenance in r.provenances.items():
        if r.state != State.DONE or number != r.status.get("attempt"):
            continue  # it was stopped, perhaps while it copied; the attempt that ended has them all
        for name, checksum in (provenance.get("artifacts") or {}).items():
            copy = run_folder.sacred_run_path(results, r.run.run_id, number) / f"run_{name}"
            for path, other in ((r.folder / name, copy), (copy, r.folder / name)):
                if not _is(path, checksum):
                    yield path, f"copy {other} over it, if that one is whole"


def replay_problems(r: RunContents) -> Iterator[tuple[str, str]]:
    """(problem, what to do) if the replay is not as it was written, or went without a record. A run
    that is being executed checks its own."""
    if r.state == State.RUNNING or run_folder.discarded_replay(r.folder) is not None:
        return
    try:
        check_replay(r.folder / run_folder.REPLAY)
    except DamagedError as error:
        less = "the run can be evaluated and drawn, but not trained further"
        start = "start it --fresh"
        yield error.what, f"restore it from a copy, or {less if r.state == State.DONE else start}"
    except OSError as error:
        yield f"{error.filename} cannot be read: {error.strerror}", "see to it that it can"


def _whole(checkpoint: Path) -> bool:
    try:
        return run_folder.is_whole(checkpoint)
    except OSError:
        return False


def _is(path: Path, checksum: str | None) -> bool:
    try:
        return run_folder.sha256(path) == checksum
    except OSError:
        return False


def _end(path: Path) -> bytes:
    """The last two bytes of a file, by which a JSON file that was cut is seen; none if there is no
    file."""
    try:
        with run_folder.reading(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2))
            return file.read() or b"empty"
    except FileNotFoundError:
        return b""
    except OSError:
        return b"unreadable"


def check_sacred(results: Path, r: RunContents) -> Iterator[Finding]:
    """Sacred's files of each attempt: whether they exist, can be read and have the right status."""
    last = r.status.get("attempt")
    for number in run_folder.attempts(r.folder):
        folder = run_folder.sacred_run_path(results, r.run.run_id, number)
        record = run_folder.read_json(folder / "run.json")

        def finding(text: str, number: int = number) -> Finding:
            todo = "nothing: the run's own files are complete; suites.push sends them to MongoDB"
            return Finding("sacred", r.run.run_id, number, text, todo)

        if record is None:
            yield finding("Sacred's run.json is missing or damaged")
            continue
        if number == last and r.state != State.DEAD and record["status"] != r.status["status"]:
            yield finding(f"Sacred says {record['status']}, the run {r.status['status']}")
        if _end(folder / "metrics.json") not in (b"", b"}\n"):
            yield finding("Sacred's metrics.json is damaged")


def check_versions(contents: Sequence[RunContents]) -> Iterator[Finding]:
    """Versions of code, packages, renderer and of users' own environments and variants that differ
    between the runs of a suite; code whose commit is not known."""
    versions: dict[str, dict[str, list[tuple[str, int]]]] = {}
    for r in contents:
        for number, provenance in r.provenances.items():
            for name, version in _versions(provenance):
                versions.setdefault(name, {}).setdefault(version, []).append((r.run.run_id, number))

    def finding(kind: str, attempts: list[tuple[str, int]], what: str, todo: str) -> Finding:
        return Finding(kind, *attempts[0], f"{counted(len(attempts), 'attempt')} {what}", todo)

    for problem, attempts in versions.pop(NO_REPOSITORY, {}).items():
        what, todo = "of code without a commit", "nothing: a hash of its sources is its version"
        found = finding(UNKNOWN_COMMIT, attempts, f"{what} ({problem})", todo)
        yield found._replace(note=True)
    for problem, attempts in versions.pop(UNKNOWN_COMMIT, {}).items():
        what, todo = "of code whose commit is not known", "keep a copy of the code that made them"
        yield finding(UNKNOWN_COMMIT, attempts, f"{what} ({problem})", todo)
    for name, users in versions.items():
        usual = max(users, key=lambda version: len(users[version]))
        for version, attempts in users.items():
            if version != usual:
                what, todo = f"with {name} {version}", "compare them; --fresh starts runs anew"
                yield finding(f"{name} differs", attempts, f"{what}, most have {usual}", todo)


def _versions(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, its version) of all that made an attempt's numbers."""
    yield "packages", _digest(provenance.get("packages"))
    if provenance.get("code") is not None:
        yield "code", provenance["code"]
    if provenance.get("renderer") not in (None, "none"):
        yield "renderer", provenance["renderer"]
    for setting, own in (provenance.get("own") or {}).items():
        named = (provenance.get("config") or {}).get(setting)
        yield f"{OWN.get(setting, setting)} {named}", own["version"]
    git = provenance.get("git")
    if git is not None and git.get("commit") is None:
        kind = UNKNOWN_COMMIT if git.get("repository", True) else NO_REPOSITORY
        yield kind, git.get("problem") or "git did not say why"


def check_seeds(contents: Sequence[RunContents]) -> Iterator[Finding]:
    """Runs with different seeds and equal returns: one of them is a copy."""
    met: dict[int, RunContents] = {}
    for r in contents:
        other = met.setdefault(r.returns, r) if r.returns else r
        if other is not r:
            text = f"the same episode returns as {other.run.run_id}"
            attempt = r.status.get("attempt")
            yield Finding("repeated", r.run.run_id, attempt, text, "start it --fresh")


def check_unexpected(results: Path, expected: set[str], suites: set[str]) -> Iterator[Finding]:
    """Folders of the suite that it does not expect, and copies of runs under another name."""
    if not suites or not run_folder.runs_path(results).is_dir():
        return
    for folder in sorted(run_folder.runs_path(results).iterdir()):
        if folder.name in expected:
            continue
        status = run_folder.read_status(folder) or {}
        if suites & set(status.get("suites") or ()):
            known = status.get("run_id") in expected
            kind = "duplicated" if known else "unexpected"
            text = f"a copy of {status['run_id']}" if known else "the suite has no such run"
            todo = "move it away, or restore the suite that it came from"
            yield Finding(kind, folder.name, status.get("attempt"), text, todo)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


# --- Text ---------------------------------------------------------------------------------------


def text(findings: Sequence[Finding], runs: int) -> str:
    lines = []
    for f in findings:
        attempt = f" attempt {f.attempt}" if f.attempt else ""
        kind = f"note: {f.kind}" if f.note else f.kind
        lines.append(f"{kind}: {f.run_id}{attempt}: {f.text} -> {f.todo}")
    count = sum(not f.note for f in findings)
    found = counted(count, "finding") if count else "all well"
    lines.append(f"{counted(runs, 'run')}, {found}")
    return "\n".join(map(printable, lines))


def describe(results: Path, run_id: str) -> str:
    """Everything about one run: settings, attempts, how they ended, evaluations."""
    folder = run_folder.run_path(results, run_id)
    if not folder.is_dir():
        names = [path.name for path in run_folder.runs_path(results).glob("*")]
        raise UserError(
            f"--run {run_id}: no such run" + (f"; {nearest(run_id, names)}" if names else "")
        )
    state, status = look(folder)
    lines = [run_id, f"  state {state}"]
    lines += [f"  {key} {value}" for key, value in (status or {}).items() if value is not None]
    for number in run_folder.attempts(folder):
        lines += _describe_attempt(run_folder.attempt_path(folder, number), number)
    metrics, problems = read_metrics(folder / run_folder.METRICS)
    count = counted(len(metrics), "record")
    lines.append(f"  {count} in {run_folder.METRICS}, {counted(len(problems), 'problem')}")
    for m in metrics:
        if m["kind"] == "evaluate":
            lines.append(f"    {m['env_steps']:>10,} env_steps: return {m['evaluate_return']:.1f}")
    return "\n".join(map(printable, lines))


def _describe_attempt(folder: Path, number: int) -> list[str]:
    found: Mapping[str, Any] = run_folder.read_json(folder / run_folder.PROVENANCE) or {}
    machine = found.get("machine") or {}
    lines = [
        f"  attempt {number}, started {found.get('started')} by {found.get('executor')}",
        f"    code {found.get('code')}, renderer {found.get('renderer')}",
        f"    on {machine.get('host')}: {machine.get('processor')}, GPUs {machine.get('gpus')}",
        f"    preset {found.get('preset')}, overrides {json.dumps(found.get('overrides'))}",
        f"    command {' '.join(found.get('command') or ())}",
    ]
    if (folder / run_folder.ERROR).exists():
        lines.append(f"    failed, see {folder / run_folder.ERROR}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
