"""Can these records be trusted? The expected runs against what is on disk, and in MongoDB.

    python -m suites.audit suites/figure6.yaml [--mongo URL] [--push] [--format json]
    python -m suites.audit --run RUN_ID

Each finding names the run, the attempt and what to do. Exit code 0 only if there is none. `--push`
first fills MongoDB with exactly what it lacks, from the runs' own files; twice adds nothing.
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

from dreamer.config import UserError, nearest
from suites import command
from suites.language import suite as expand
from suites.language.suite import Run
from suites.record import folder as records
from suites.record import mongo, mongo_urls
from suites.record.contents import Finding, Recorded, read, read_json

RERUN = "run the suite again"
MANY = 100  # runs: from so many on, further processes pay


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if all is well, 1 if there are findings, 2 for bad input."""
    return command.main(parse, audit, arguments)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command.parser("audit", __doc__.splitlines()[0], suites="*")
    add = parser.add_argument
    add("--run", metavar="RUN_ID", help="the whole story of one run instead")
    add("--mongo", metavar="URL", help="compare with this MongoDB too; also DREAMER_MONGO_URL")
    add("--push", action="store_true", help="fill MongoDB with what it lacks first")
    add("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(arguments)
    if bool(options.suites) == bool(options.run):
        raise UserError("give suites, or --run RUN_ID")
    return options


def audit(options: argparse.Namespace) -> int:
    if options.run:
        print(story(options.results, options.run))
        return 0
    suites, runs = command.chosen(options)
    servers = [_server(url) for url in _urls(options, suites)]
    recorded, findings, pushed = [], [], 0
    for r, found in look_at(options.results, runs, with_metrics=bool(servers)):
        findings += found
        for server in servers:
            with mongo_urls.failures_told(server.url):
                pushed += server.push(r) if options.push else 0
                findings += server.check_run(r)
        recorded.append(r._replace(metrics=[]))  # those of all runs would fill the memory
    whole = not (options.only or options.leave_out)
    names = {suite.name for suite in suites} if whole else set()
    findings += check_versions(recorded)
    findings += check_seeds(recorded)
    findings += check_unexpected(options.results, {run.run_id for run in runs}, names)
    for server in servers:
        with mongo_urls.failures_told(server.url):
            findings += server.check_others(options.results, recorded, names)
    if options.push:
        print(f"{', '.join(s.name for s in servers)}: {pushed} things filled in", file=sys.stderr)
    if options.format == "json":
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        print(text(findings, len(runs)))
    return 1 if findings else 0


def look_at(
    results: Path, runs: Sequence[Run], with_metrics: bool
) -> Iterator[tuple[Recorded, list[Finding]]]:
    """Each run as it is recorded, and what is wrong with it. Many runs are divided among the cores,
    and come without their metrics, unless those are asked for."""
    one = functools.partial(_look_at_one, results, with_metrics)
    if with_metrics or len(runs) < MANY:
        yield from map(one, runs)
    else:
        with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            yield from pool.map(one, runs, chunksize=8)


def _look_at_one(results: Path, with_metrics: bool, run: Run) -> tuple[Recorded, list[Finding]]:
    r = read(results, run)
    findings = list(check_run(results, r))
    return (r if with_metrics else r._replace(metrics=[])), findings


def _server(url: str) -> mongo.Server:
    with mongo_urls.failures_told(url):
        return mongo.Server(url)


def _urls(options: argparse.Namespace, suites: Sequence[expand.Suite]) -> list[str]:
    if options.mongo:
        mongo_urls.give(options.mongo)
    urls = mongo_urls.all_urls([url for suite in suites for url in suite.observers])
    if options.push and not urls:
        raise UserError("--push: no server is named; give --mongo URL")
    return list(dict.fromkeys(urls))


# --- Checking -------------------------------------------------------------------------------------


def check_run(results: Path, r: Recorded) -> Iterator[Finding]:
    """What is wrong with one run by itself."""
    attempt = r.status.get("attempt")

    def finding(kind: str, text: str, todo: str) -> Finding:
        return Finding(kind, r.run.run_id, attempt, text, todo)

    if r.state == records.MISSING and not r.metrics:
        yield finding("missing", "it was never started", RERUN)
        return
    if r.state == records.FAILED:
        log = r.folder / "attempts" / str(attempt) / "error.txt"
        yield finding("failed", str(r.status.get("error")), f"see {log}; then --retry-failed")
    elif r.state == records.DEAD:
        yield finding("dead", f"last heartbeat {r.status.get('heartbeat')}", RERUN)
    elif r.state != records.DONE:
        yield finding("incomplete", f"it is {r.state}", RERUN)
    if r.config is None:
        yield finding("config", "config.json cannot be read", "restore it, or start it --fresh")
    else:
        differing = sorted(
            key for key in expand.outcome_settings() if r.config.get(key) != r.run.config[key]
        )
        if differing:
            shown = ", ".join(f"{k}={r.config.get(k)!r}" for k in differing)
            yield finding("config", f"it differs from the suite's: {shown}", "start it --fresh")
    if not r.stories:
        yield finding("provenance", "no attempt says where it comes from", "start it --fresh")
    yield from (finding("metrics", problem, "start it --fresh") for problem in metrics_problems(r))
    budget = r.run.config["env_steps"]
    last = r.metrics[-1]["env_steps"] if r.metrics else 0
    if r.state == records.DONE and last < budget:
        yield finding("short", f"{last:,} of {budget:,} env_steps are recorded", "start it --fresh")
    for path, todo in damaged_files(results, r):
        yield finding("checksum", f"{path} is damaged or missing", todo)
    yield from check_sacred(results, r)


def metrics_problems(r: Recorded) -> Iterator[str]:
    """Lines that cannot be read, counters that go back, gaps, numbers that are not finite."""
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


def damaged_files(results: Path, r: Recorded) -> Iterator[tuple[Path, str]]:
    """Checkpoints and artifacts whose checksum is wrong, Sacred's copies included; what to do."""
    for path in sorted((r.folder / "checkpoints").glob("checkpoint-*.pt")):
        beside = path.with_suffix(".pt.sha256")
        if not beside.exists() or not _is(path, beside.read_text()[:64]):
            older = "" if r.state == records.DONE else ": the one before is used"
            yield path, f"delete it{older}"
    for number, story in r.stories.items():
        for name, checksum in (story.get("artifacts") or {}).items():
            copy = results / "sacred" / f"{r.run.run_id}-{number}" / f"run_{name}"
            for path, other in ((r.folder / name, copy), (copy, r.folder / name)):
                if not _is(path, checksum):
                    yield path, f"copy {other} over it, if that one is whole"


def _is(path: Path, checksum: str) -> bool:
    try:
        return records.sha256(path) == checksum
    except OSError:
        return False


def _end(path: Path) -> bytes:
    """The last two bytes: those of a JSON file that was cut are others."""
    try:
        with open(path, "rb") as file:
            file.seek(-2, os.SEEK_END)
            return file.read()
    except OSError:
        return b""


def check_sacred(results: Path, r: Recorded) -> Iterator[Finding]:
    """Sacred's files of every attempt: there, readable, with the status that was."""
    last = r.status.get("attempt")
    for number in records.attempts(r.folder):
        folder = results / "sacred" / f"{r.run.run_id}-{number}"
        record = read_json(folder / "run.json")

        def finding(text: str, number: int = number) -> Finding:
            todo = "the run's own files are the truth; nothing, or push them to MongoDB"
            return Finding("sacred", r.run.run_id, number, text, todo)

        if record is None:
            yield finding("Sacred's run.json is missing or damaged")
            continue
        if number == last and r.state != records.DEAD and record["status"] != r.status["status"]:
            yield finding(f"Sacred says {record['status']}, the run {r.status['status']}")
        if _end(folder / "metrics.json") not in (b"", b"}\n"):
            yield finding("Sacred's metrics.json is damaged")


def check_versions(recorded: Sequence[Recorded]) -> Iterator[Finding]:
    """Code, packages and renderers that differ among the runs of a suite."""
    aspects = {
        "code": lambda s: s.get("code"),
        "packages": lambda s: _digest(s.get("packages")),
        "renderer": lambda s: s.get("renderer") if s.get("renderer") != "none" else None,
    }
    for name, aspect in aspects.items():
        users: dict[Any, list[tuple[str, int]]] = {}
        for r in recorded:
            for number, story in r.stories.items():
                if aspect(story) is not None:
                    users.setdefault(aspect(story), []).append((r.run.run_id, number))
        if len(users) < 2:
            continue
        usual = max(users, key=lambda version: len(users[version]))
        for version, attempts in users.items():
            if version != usual:
                run_id, number = attempts[0]
                text = f"{len(attempts)} attempts with {name} {version}, most with {usual}"
                yield Finding(f"{name} differs", run_id, number, text, "compare; --fresh to unify")


def check_seeds(recorded: Sequence[Recorded]) -> Iterator[Finding]:
    """Runs with different seeds and the same numbers: one of them is a copy."""
    met: dict[str, Recorded] = {}
    for r in recorded:
        other = met.setdefault(r.returns, r) if r.returns else r
        if other is not r:
            text = f"the same episode returns as {other.run.run_id}"
            yield Finding(
                "repeated", r.run.run_id, r.status.get("attempt"), text, "start it --fresh"
            )


def check_unexpected(results: Path, expected: set[str], suites: set[str]) -> Iterator[Finding]:
    """Folders that say they belong to the suite, and runs that stand under another's name."""
    if not suites or not (results / "runs").is_dir():
        return
    for folder in sorted((results / "runs").iterdir()):
        if folder.name in expected:
            continue
        status = records.read_status(folder) or {}
        if suites & set(status.get("suites") or ()):
            known = status.get("run_id") in expected
            kind = "duplicated" if known else "unexpected"
            text = f"a copy of {status['run_id']}" if known else "the suite has no such run"
            todo = "move it away, or restore the suite that it came from"
            yield Finding(kind, folder.name, status.get("attempt"), text, todo)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


# --- Saying ---------------------------------------------------------------------------------------


def text(findings: Sequence[Finding], runs: int) -> str:
    lines = []
    for f in findings:
        attempt = f" attempt {f.attempt}" if f.attempt else ""
        lines.append(f"{f.kind}: {f.run_id}{attempt}: {f.text} -> {f.todo}")
    lines.append(f"{runs} runs, {len(findings)} findings" if findings else f"{runs} runs, all well")
    return "\n".join(lines)


def story(results: Path, run_id: str) -> str:
    """Everything about one run: settings, attempts, how they ended, what was measured."""
    folder = records.run_folder(results, run_id)
    if not folder.is_dir():
        names = [path.name for path in (results / "runs").glob("*")]
        raise UserError(
            f"--run {run_id}: no such run" + (f"; {nearest(run_id, names)}" if names else "")
        )
    status = records.read_status(folder)
    lines = [run_id, f"  state {records.state_of(folder, status)}"]
    lines += [f"  {key} {value}" for key, value in (status or {}).items() if value is not None]
    for number in records.attempts(folder):
        lines += _attempt_story(folder / "attempts" / str(number), number)
    metrics, problems = records.read_metrics(folder / "metrics.jsonl")
    lines.append(f"  {len(metrics)} records in metrics.jsonl, {len(problems)} problems")
    for m in metrics:
        if m["kind"] == "evaluate":
            lines.append(f"    {m['env_steps']:>10,} env_steps: return {m['evaluate_return']:.1f}")
    return "\n".join(lines)


def _attempt_story(folder: Path, number: int) -> list[str]:
    found: Mapping[str, Any] = read_json(folder / "provenance.json") or {}
    machine = found.get("machine") or {}
    lines = [
        f"  attempt {number}, started {found.get('started')} by {found.get('executor')}",
        f"    code {found.get('code')}, renderer {found.get('renderer')}",
        f"    on {machine.get('host')}: {machine.get('processor')}, GPUs {machine.get('gpus')}",
        f"    preset {found.get('preset')}, overrides {json.dumps(found.get('overrides'))}",
        f"    command {' '.join(found.get('command') or ())}",
    ]
    if (folder / "error.txt").exists():
        lines.append(f"    failed, see {folder / 'error.txt'}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
