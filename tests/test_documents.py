"""What the documents tell a reader to type works: every command and every block of Python and YAML
is run here, in the order of its document, in a folder where a small suite stands in for
`quickstart`. What is too large for a test is run smaller (SMALLER), and what needs another machine
is listed with the reason (NOT_RUN). A command that is new is run as it stands.
"""

from __future__ import annotations

import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pytest
import yaml
from helpers import QUICK, ROOT, Server

from analysis import synthetic
from dreamer import run_folder
from suites.language.suite import SUITE_KEYS, expand

LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=ROOT, check=True, capture_output=True, text=True,
)  # fmt: skip
DOCUMENTS = [name for name in LISTED.stdout.splitlines() if (ROOT / name).exists()]
OURS = ("dreamer", "suites", "slurm", "analysis")

INSTALLS = "installs packages, or needs root"
CLUSTER = "needs SLURM; tests/slurm/test_slurm.py submits to a real one"
OTHERS = "a program of others that the tests' machines lack"
MEASURED = "measures for minutes to hours; says how numbers came about"
NOT_RUN = {
    ". .venv/bin/activate": "the tests' own environment is active",
    ".ci/system_packages.sh slurm": INSTALLS,
    "apt-get install git make python3-venv": INSTALLS,
    "pip install 'dreamer-suite[mongo]'": INSTALLS,
    "npm install -g omniboard": OTHERS,
    'omniboard --mu "$DREAMER_MONGO_URL"': OTHERS,
    "docker run --rm -p 127.0.0.1:9000:9000 vivekratnavel/omniboard "
    '--mu "$DREAMER_MONGO_URL"': OTHERS,
    "python -m slurm.doctor": "draws for minutes; tests/slurm/test_doctor.py runs its checks",
    "python -m slurm.doctor --profile default": CLUSTER,
    "python -m suites.run suites/figure6.yaml --executor slurm": CLUSTER,
    "python -m suites.run suites/figure6.yaml --doctor": CLUSTER,
    "slurm/dev_cluster.sh start": CLUSTER,
    "slurm/dev_cluster.sh stop": CLUSTER,
    "python -m suites.execution.worker": "what executors start, with a run on its stdin",
    "python tests/test_fuzz.py": "tries for minutes what its tests try a little of",
    "python -m suites.benchmark audit": MEASURED,
    "python -m suites.benchmark commands": MEASURED,
    "python -m suites.benchmark replay 501 RESULTS ...": MEASURED,
    "python -m suites.growth memory": MEASURED,
    "python -m suites.growth runs": MEASURED,
}
PLANNED = (
    "python -m suites.run suites/small.yaml --workers 1 --only task=TASK",
    "python -m suites.run suites/figure7_small.yaml suites/figure8_small.yaml --workers 2",
    "python -m suites.run suites/small_variants.yaml --workers 1 --only KEY=VALUE",
    "python -m suites.run results/measured/atari/suite.yaml",
    "python -m suites.run suites/precision.yaml --workers 1",
)
SMALLER = {
    **{f"make {target}": f"make -n {target}"
       for target in ("quickstart", "test", "check", "format", "environment")},
    **{line: f"{line} --plan" for line in PLANNED},
    "python -m suites.run suites/smoke.yaml --set seeds=2":
        "python -m suites.run suites/smoke.yaml --set seeds=2 --dry-run",
    "python -m dreamer.benchmark":
        "python -m dreamer.benchmark --preset tiny --seconds 0.01 --repeats 1",
    ".ci/run": "bash -n .ci/run",
    ".venv/bin/python -m pytest tests/dreamer/test_envs.py":
        "python -m pytest tests/dreamer/test_envs.py --collect-only -q -p no:cacheprovider",
    "python -m dreamer.train --task toy_dot --preset tiny":
        "python -m dreamer.train --task toy_dot --preset tiny --env_steps 100",
    "python -m suites.run walker.yaml --set env_steps=2e6":
        "python -m suites.run walker.yaml --set env_steps=240",
    "python -m suites.clean walker.yaml": "python -m suites.clean walker.yaml --yes",
    "python -m suites.random_scores --out results/measured/random.csv":
        "python -m suites.random_scores cartpole_balance --episodes 2 --out random.csv",
    "python -m suites.random_scores cartpole_balance --action-repeat 8 --out random.csv":
        "python -m suites.random_scores cartpole_balance --episodes 2 --out random.csv",
    "python -m analysis.coverage --out results/measured/coverage.csv":
        "python -m analysis.coverage --experiments 2 --out coverage.csv",
    "python -m analysis.redraw": "python -m analysis.redraw --help",
    "python -m analysis.synthetic SYNTHETIC_RESULTS suites/figure4.yaml suites/figure5.yaml "
    "suites/figure6.yaml suites/figure7.yaml suites/figure8.yaml suites/figure9.yaml "
    "suites/figure10.yaml suites/figure11.yaml suites/discrete.yaml --pictures results/examples":
        "python -m analysis.synthetic made_up suites/discrete.yaml --pictures pictures",
}  # fmt: skip
STATUS = "python -m suites.status"  # says by exit code 1 that runs are left


class Step(NamedTuple):
    """Something in a document that a reader types, or writes into a file."""

    kind: str  # bash | python | yaml
    text: str


FILE = re.compile(r"# (\w+\.(py|yaml))\n")  # a block begins with the name of its file
FENCE_OR_SPAN = re.compile(r"^```(\w*)\n(.*?)^```|`([^`]+)`", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(
    r"(python|make|pip|npm|docker|omniboard|apt-get|\.venv/\S+|\.ci/\S+|slurm/dev_cluster\.sh)\s\S"
    r"|\.ci/run$"
)


def steps(document: str) -> Iterator[Step]:
    """In the order of the document; a line of commands without its comment is one of them."""
    for kind, block, span in FENCE_OR_SPAN.findall((ROOT / document).read_text(encoding="utf-8")):
        if kind in ("python", "yaml"):
            yield Step(kind, block)
        elif kind == "bash":
            for line in block.replace("\\\n", " ").splitlines():
                yield Step("bash", without_comment(line))
        elif COMMAND.match(line := " ".join(span.split())):
            yield Step("bash", line)


def without_comment(line: str) -> str:
    return " ".join(re.sub(r"\s#.*", "", line).split())


# --- The folder in which commands are typed -------------------------------------------------------

SMALL = {key: value for key, value in QUICK.items() if key != "task"}
SMALL |= {"env_steps": 180, "preset": "tiny", "executor": "debug"}
MOST_TRAINED = 4  # runs of a suite
TOYS = {"walker_walk": "toy_dot", "pendulum_swingup": "toy_dot", "cartpole_balance": "toy_discrete"}
TASKS = {"task": ["toy_dot", "toy_discrete"]}
STAND_INS: dict[str, dict[str, Any]] = {  # their horizons tell their runs apart
    "suites/quickstart": {"seeds": 1, "horizon": 4, "task": "toy_dot", "executor": "local"},
    "suites/figure7": {
        "seeds": 2,
        "horizon": 5,
        "grid": {**TASKS, "behaviour": ["dreamer", "planet"]},
    },
    "A": {"seeds": 2, "horizon": 6, "grid": TASKS},
    "B": {"seeds": 2, "horizon": 7, "grid": TASKS},
}


def small(text: str) -> str:
    """A suite of a document, on toys and in seconds."""
    text = yaml.safe_dump({**yaml.safe_load(text), **SMALL})
    return re.sub("|".join(TOYS), lambda found: TOYS[found.group()], text)


def write_suite(path: Path, text: str) -> None:
    """Its runs are trained by the document's commands; many have synthetic records from now on."""
    path.write_text(text if "preset: tiny" in text else small(text))
    if len(expand(path).runs) > MOST_TRAINED:
        synthetic.write_suites(Path("results"), [path])


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, server: Server) -> Path:
    """A checkout with a small quickstart, which was trained, and synthetic records of others."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(ROOT / "suites", folder / "suites", ignore=lambda *_: {"__pycache__"})
    for path in ROOT.iterdir():
        if path.name not in ("suites", "results", ".git"):
            (folder / path.name).symlink_to(path)
    results = folder / "results"
    results.mkdir()
    for name in ("measured", "published"):
        (results / name).symlink_to(ROOT / "results" / name)
    for name, suite in STAND_INS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**SMALL, **suite}))
    synthetic.write_suites(results, [folder / f"{name}.yaml" for name in [*STAND_INS][1:]])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DREAMER_MONGO_URL", server.url)
        assert typed("python -m suites.run suites/quickstart.yaml") == 0
    return folder


@pytest.fixture
def folder(prepared: Path, server: Server, tmp_path: Path, monkeypatch) -> Path:
    """A copy of it, in which this process is."""
    folder = tmp_path / "typed"
    shutil.copytree(prepared, folder, symlinks=True)
    (folder / "data").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)  # as `python -m` does
    monkeypatch.setenv("DREAMER_MONGO_URL", "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    matplotlib.use("agg")
    return folder


def typed(line: str) -> int:
    """The exit code of a line in a shell. Our own commands are run without one."""
    words = shlex.split(line)
    unquoted = re.sub(r"'[^']*'", "", line)
    if words[0] == "python" and not set("*|>") & set(unquoted):
        module, words = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
        module = module.removesuffix(".py").replace("/", ".")
        if module.startswith(OURS):
            return run_module(module, words)
    return subprocess.run(["bash", "-c", line], timeout=600).returncode


def run_module(module: str, arguments: list[str]) -> int:
    """In a fork of this process, which has imported most of what the module needs."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            streams = [io.TextIOWrapper(io.FileIO(fd, "w", closefd=False)) for fd in (1, 2)]
            sys.stdout, sys.stderr = streams
            sys.argv = [module, *arguments]
            warnings.simplefilter("ignore", RuntimeWarning)  # it was imported before
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def words(folder: Path, server: Server) -> dict[str, str]:
    """What a reader writes in place of a document's words; the run is one of the quickstart."""
    run_id = expand(folder / "suites/quickstart.yaml").runs[0].run_id
    return {
        "mongodb://USER:PASSWORD@HOST:27017/dreamer": server.url,
        "mongodb://HOST:27017/dreamer": server.url,
        "RUN_DIR": f"results/runs/{run_id}",
        "RUN_ID": run_id,
        "SUITE": "suites/quickstart.yaml",
        "KEY=VALUE": "behaviour=planet",
        "TASK": "pendulum_swingup",
        "/data/": f"{folder}/data/",
    }


def filled_in(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


SLOW = ("HOW_TO.md", "dreamer/README.md")
TYPED = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in DOCUMENTS
    if any(steps(name))
]


@pytest.mark.parametrize("document", TYPED)
def test_what_a_document_tells_to_type_works(
    document: str, words: dict[str, str], monkeypatch, capfd
) -> None:
    names: dict[str, object] = {}
    for step in steps(document):
        if file := FILE.match(step.text):
            Path(file[1]).write_text(step.text)
            if step.kind == "yaml":
                write_suite(Path(file[1]), step.text)
    for step in steps(document):
        if step.kind == "python" and not FILE.match(step.text):
            code = filled_in(step.text, words)
            exec(compile(code, document, "exec"), names)
        elif step.kind == "bash" and step.text not in NOT_RUN:
            line = filled_in(SMALLER.get(step.text, step.text), words)
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").partition("=")
                monkeypatch.setenv(name, value)
                continue
            code = typed(line)
            printed = "".join(capfd.readouterr())
            assert code in (0, int(line.startswith(STATUS))), f"{line}\n{printed}"


def test_what_is_not_run_is_in_a_document() -> None:
    shown = {step.text for document in DOCUMENTS for step in steps(document)}
    assert set(NOT_RUN) | set(SMALLER) <= shown
    assert not set(NOT_RUN) & set(SMALLER)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_stand_in_blocks_of_bash(document: str) -> None:
    """A block without a language is a tree or a picture, so nothing in it is run."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for kind, block, _ in FENCE_OR_SPAN.findall(text):
        assert kind in ("bash", "python", "yaml", "mermaid", "") or not block
        assert kind != "" or not any(map(COMMAND.match, block.splitlines()))


# --- Suites, files and keys -----------------------------------------------------------------------

YAML = [(name, step.text) for name in DOCUMENTS for step in steps(name) if step.kind == "yaml"]


@pytest.mark.parametrize(("document", "text"), YAML, ids=[name for name, _ in YAML])
def test_suites_in_documents_have_runs(document: str, text: str, tmp_path: Path) -> None:
    for suite in (ROOT / "suites").glob("*.yaml"):  # for `include`
        shutil.copy(suite, tmp_path)
    written = tmp_path / "of_a_document.yaml"
    written.write_text(text)
    assert len(expand(written).runs) > 0


def test_the_suites_readme_names_every_file_of_a_run() -> None:
    text = (ROOT / "suites/README.md").read_text(encoding="utf-8")
    names = {v for k, v in vars(run_folder).items() if k.isupper() and isinstance(v, str)}
    assert len(names) > 12
    assert not {name for name in names - {run_folder.CODE} if name not in text}


def test_the_suites_readme_shows_every_key_of_a_suite() -> None:
    text = (ROOT / "suites/README.md").read_text(encoding="utf-8")
    shown = {key for key in SUITE_KEYS if re.search(rf"^{key}:|`{key}`", text, re.MULTILINE)}
    assert shown == set(SUITE_KEYS)
