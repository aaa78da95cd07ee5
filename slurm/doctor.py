"""Check whether a machine is fit for runs: this one, or a node of the cluster.

    python -m slurm.doctor                  this machine
    python -m slurm.doctor --profile short  a node as that profile asks for, through srun
    python -m slurm.doctor --quick          one frame instead of one of each domain, no update
    python -m suites.run SUITE --doctor     before a submission, with the suite's own needs

Renders with EGL and OSMesa and compares the frames, names the GPUs that EGL and CUDA see (under
SLURM they may differ), times an update of preset `published`, and checks disk and MongoDB. Tries
file locks in the results folder: between two processes, and between this machine and a node. Each
check is a process of its own with a time limit (slurm/checks.py), since broken drivers hang. Exit
code 0: fit; 1: not fit, and the table says what to do; 2: bad input.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dreamer import command_line
from dreamer.errors import UserError
from dreamer.run_folder import RESULTS, size_text
from slurm.profiles import Profile, load_profile
from suites.record.folder import NoLocksError, flock

ROOT = Path(__file__).resolve().parent.parent
RENDER_WITHIN_S, UPDATE_WITHIN_S, OTHER_WITHIN_S, NODE_WITHIN_S = 300, 600, 120, 1800
MAX_DIFFERENCE = 12.0  # mean, of 255; renderers differ a little at edges
OK, WARN, FAIL = "ok", "warn", "FAIL"


class Row(NamedTuple):
    """One line of the table."""

    check: str
    verdict: str
    found: str
    todo: str = ""


class FailedCheckError(Exception):
    """The process of a check failed or did not end in time; the message is its last line."""

    hangs = False


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.main(parse, run, arguments)


def run(options: argparse.Namespace) -> int:
    if options.profile and not options.here:
        return examine(options.profile, options.results, options.quick, options.needs_gb,
                       options.mongo)  # fmt: skip
    gpus = load_profile(options.profile).gpus if options.profile else 0
    fit = True
    for row in checks(options.results, options.quick, options.needs_gb, gpus, options.mongo,
                      options.held):  # fmt: skip
        print(text(row), flush=True)
        fit &= row.verdict != FAIL
    return 0 if fit else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command_line.Parser("python -m slurm.doctor", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--profile", metavar="NAME", help="check a node of the cluster that this profile asks for")
    add("--here", action="store_true", help="with --profile: this machine is such a node")
    add("--quick", action="store_true", help="render cartpole only, and time no update")
    add("--results", type=Path, default=RESULTS, metavar="DIR",
        help="default: results, in the folder you are in")  # fmt: skip
    add("--needs-gb", type=float, metavar="GB", help="disk that runs need; default: one run's")
    # A file that the calling machine keeps locked.
    add("--held", type=Path, help=argparse.SUPPRESS)
    add("--mongo", action="append", default=[], metavar="URL",
        help="a MongoDB that records go to; also DREAMER_MONGO_URL")  # fmt: skip
    return parser.parse_args(arguments)


def examine(profile_name: str, results: Path, quick: bool = False, needs_gb: float | None = None,
            mongo: Sequence[str] = ()) -> int:  # fmt: skip
    """The checks on a node of the cluster; returns their exit code."""
    profile = load_profile(profile_name)
    if shutil.which("srun") is None:
        raise UserError("no srun here: use a machine of the cluster, or --here on a node")
    words = [sys.executable, "-m", "slurm.doctor", "--here", "--profile", profile.name]
    words += ["--results", str(results.resolve())]
    words += ["--quick"] if quick else []
    words += ["--needs-gb", str(needs_gb)] if needs_gb is not None else []
    words += [word for url in mongo for word in ("--mongo", url)]
    setup = profile.options.get("setup", [])  # as in a job
    environment = {**os.environ, **profile.environment, "PYTHONPATH": str(ROOT)}
    print(f"asking SLURM for a node: {shlex.join(srun(profile))}", file=sys.stderr)
    try:
        with _locked_file(results) as held:
            words += ["--held", str(held)] if held else []
            on_node = [*srun(profile), "bash", "-c", "\n".join([*setup, shlex.join(words)])]
            done = subprocess.run(on_node, cwd=ROOT, env=environment, timeout=NODE_WITHIN_S)
        return done.returncode
    except subprocess.TimeoutExpired:
        raise UserError(f"no node and no answer within {NODE_WITHIN_S // 60} minutes") from None


@contextlib.contextmanager
def _locked_file(results: Path) -> Iterator[Path | None]:
    """A file in the results folder that this process keeps locked while the block runs; None if it
    cannot be locked: the checks on the node report why.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.NamedTemporaryFile(dir=_existing(results)))
            path = Path(file.name)
            flock(file, path)
        except (OSError, NoLocksError):
            path = None
        yield path


def srun(profile: Profile) -> list[str]:
    """The call of srun with the resources of the profile, for half an hour at most."""
    words = ["srun", "--ntasks=1", f"--time={NODE_WITHIN_S // 60}", "--job-name=doctor"]
    ours = {"time", "setup", "teardown", "srun_args", "signal_delay_s", "array_parallelism"}
    ours |= {"stderr_to_stdout", "comment", "wckey", "dependency", "mail_type", "mail_user"}
    named = {key: value for key, value in profile.options.items() if key not in ours}
    for key, value in {**named, **profile.sbatch}.items():
        if key != "hold" and value is not False:
            flag = f"--{key.replace('_', '-')}"
            words.append(flag if value is True else f"{flag}={value}")
    return words


def checks(results: Path, quick: bool, needs_gb: float | None, gpus: int,
           mongo: Sequence[str], held: Path | None = None) -> Iterator[Row]:  # fmt: skip
    """All checks, on this machine, quick ones first. `gpus`: how many it should have. `held`: a
    file that another machine has locked."""
    yield check_disk(results, needs_gb)
    yield check_locks(results)
    if held is not None:
        yield check_locks_across(held)
    yield from check_mongo([*mongo, *filter(None, [os.environ.get("DREAMER_MONGO_URL")])])
    cuda, row = check_cuda(gpus)
    yield row
    with tempfile.TemporaryDirectory() as folder:
        yield from check_renderers(Path(folder), quick, cuda)
    if cuda:
        yield check_egl_devices(len(cuda))
    if not quick:
        yield check_update()


def check_cuda(gpus: int) -> tuple[list[str], Row]:
    """(names of the GPUs, row)"""
    try:
        names = ask("cuda")
    except FailedCheckError as error:
        return [], Row("CUDA", FAIL, str(error), "reinstall PyTorch for this node's driver")
    if len(names) < gpus:
        todo = "check the profile's gpus_per_node or gres, and the driver (nvidia-smi)"
        return names, Row("CUDA", FAIL, f"{len(names)} GPUs, {gpus} asked for", todo)
    return names, Row("CUDA", OK, ", ".join(names) or "no GPU, none asked for")


def check_renderers(folder: Path, quick: bool, cuda: Sequence[str]) -> Iterator[Row]:
    """Draws a frame of each domain with both renderers and compares them."""
    drawn = {}
    for name in ("egl", "osmesa"):
        path = folder / f"{name}.npz"
        try:
            found = ask("render", "quick" if quick else "all", str(path),
                        within_s=RENDER_WITHIN_S, MUJOCO_GL=name, DREAMER_RENDERER="")  # fmt: skip
        except FailedCheckError as error:
            yield Row(name, WARN, str(error), HANGS if error.hangs else INSTALL[name])
            continue
        drawn[name] = path
        yield _rendered(name, found, cuda)
    if not drawn:
        yield Row("rendering", FAIL, "no renderer works", "see the two lines above")
    if len(drawn) == 2:
        yield _compared(ask("compare", *map(str, drawn.values())))


def check_egl_devices(count: int) -> Row:
    """Whether EGL numbers the GPUs as CUDA does, which sees `count` of them: workers on this
    machine use one number for both."""
    try:
        found = ask("egl_devices", CUDA_VISIBLE_DEVICES="")
    except FailedCheckError as error:
        return Row("EGL devices", WARN, str(error), INSTALL["egl"])
    shown = ", ".join("none" if number is None else str(number) for number in found)
    text = f"CUDA's numbers of EGL's devices: {shown or 'no device'}"
    if found[:count] != list(range(count)):
        todo = "set MUJOCO_EGL_DEVICE_ID where a job has one GPU; else workers may draw on one GPU"
        return Row("EGL devices", WARN, text, todo)
    return Row("EGL devices", OK, text)


INSTALL = {
    "egl": "install libegl1 (and the GPU's driver); runs fall back to OSMesa, which is slower",
    "osmesa": "install libosmesa6; needed only where EGL does not work",
}
HANGS = "a driver that hangs, or a node that is busy: try again; runs use the other renderer"


def _rendered(name: str, found: Mapping[str, Any], cuda: Sequence[str]) -> Row:
    text = f"{found['renderer']}: {found['domains']} domains, {found['ms']:.1f} ms a frame"
    if found["black"]:
        return Row(name, FAIL, f"{text}; black: {', '.join(found['black'])}", INSTALL[name])
    if name == "egl" and cuda:
        words = set(found["renderer"].lower().replace("/", " ").split())
        if not any(words & (set(gpu.lower().split()) - {"nvidia", "gpu"}) for gpu in cuda):
            todo = f"CUDA has {', '.join(cuda)}; set MUJOCO_EGL_DEVICE_ID in the profile"
            return Row(name, WARN, text, todo)
    return Row(name, OK, text)


def _compared(found: Mapping[str, Any]) -> Row:
    text = f"at most {found['mean']:.2f} of 255 apart on average ({found['domain']})"
    if found["mean"] > MAX_DIFFERENCE:
        return Row("egl = osmesa", FAIL, text, "one of them draws wrongly: look at both frames")
    return Row("egl = osmesa", OK, text)


def check_update() -> Row:
    """One update of preset `published`."""
    try:
        found = ask("update", within_s=UPDATE_WITHIN_S)
    except FailedCheckError as error:
        todo = "ask for more memory in the profile (an update takes about 10 GB), or see the error"
        return Row("update", FAIL, str(error), todo)
    text = f"{found['seconds']:.3g} s on {found['device']}, preset published"
    if not found["finite"]:
        return Row("update", FAIL, f"{text}: not finite", "do not use this node")
    return Row("update", OK, text)


def check_locks(results: Path) -> Row:
    """Whether a process sees that another one has locked a file where the results are."""
    todo = "mount it with `flock` (Lustre) or lockd (NFS), or choose another --results"
    try:
        with tempfile.NamedTemporaryFile(dir=_existing(results)) as file:
            path = Path(file.name)
            before = ask("lock", file.name)
            flock(file, path)
            after = ask("lock", file.name)
    except (OSError, NoLocksError, FailedCheckError) as error:
        return Row("locks", FAIL, str(error), todo)
    if (before, after) != ("free", "held"):
        return Row("locks", FAIL, "a process does not see the lock of another", todo)
    return Row("locks", OK, "seen by another process")


def check_locks_across(held: Path) -> Row:
    """Whether this machine sees that another one has locked the file `held`."""
    todo = "mount it without local locks (NFS nolock, Lustre localflock), or change --results"
    try:
        seen = ask("lock", str(held))
    except FailedCheckError as error:
        return Row("locks, nodes", FAIL, str(error), "use a folder that all machines share")
    if seen != "held":
        return Row("locks, nodes", FAIL, "a lock of another machine is not seen here", todo)
    return Row("locks, nodes", OK, "seen on this machine")


def _existing(results: Path) -> Path:
    """The results folder, or the nearest one above it that exists."""
    return next(p for p in (results.resolve(), *results.resolve().parents) if p.exists())


def check_disk(results: Path, needs_gb: float | None) -> Row:
    """Free disk in the results folder, compared with what the runs need."""
    there = _existing(results)
    free_gb = shutil.disk_usage(there).free / 1e9
    if not os.access(there, os.W_OK):
        return Row("disk", FAIL, f"{there} cannot be written", "choose another --results")
    what = "needed"
    if needs_gb is None:
        try:
            needs_gb, what = ask("disk_bytes") / 1e9, "for a published run"
        except FailedCheckError as error:
            return Row("disk", FAIL, str(error))
    text = f"{size_text(free_gb * 1e9)} free, {size_text(needs_gb * 1e9)} {what}"
    if free_gb < needs_gb:
        return Row("disk", FAIL, text, "free some, or choose another --results")
    return Row("disk", OK, text)


def check_mongo(urls: Sequence[str]) -> Iterator[Row]:
    """Whether the servers answer. Only their hosts are shown: the rest may hold credentials."""
    for url in dict.fromkeys(urls):
        host = url.partition("://")[2].rpartition("@")[2].partition("/")[0]
        try:
            ask("mongo", DOCTOR_URL=url)
        except FailedCheckError as error:
            kind = str(error).split(":")[0]
            todo = "check the URL from here; runs work without it; suites.push fills it in later"
            yield Row("MongoDB", FAIL, f"{host}: not reached ({kind})", todo)
        else:
            yield Row("MongoDB", OK, f"{host}: reached")
    if not urls:
        yield Row("MongoDB", OK, "none is named")


def ask(check: str, *arguments: str, within_s: float = OTHER_WITHIN_S, **environment: str) -> Any:
    """The result of a check of slurm/checks.py. Raises FailedCheckError with its last line."""
    mine = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-W", "ignore", "-m", "slurm.checks", check, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=within_s, cwd=ROOT,
                              env={k: v for k, v in mine.items() if v != ""})  # fmt: skip
    except subprocess.TimeoutExpired:
        hanging = FailedCheckError(f"no answer within {within_s:.0f} s")
        hanging.hangs = True
        raise hanging from None
    if done.returncode != 0:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise FailedCheckError(last.removeprefix("dreamer.errors.UserError: ")[:200])
    return json.loads(done.stdout.strip().splitlines()[-1])


def text(row: Row) -> str:
    """A line of the table: check, verdict, what was found. A second one says what to do."""
    line = f"{row.check:<12}  {row.verdict:<4}  {row.found}"
    return f"{line}\n{'':<20}-> {row.todo}" if row.todo else line


if __name__ == "__main__":
    sys.exit(main())
