"""The shape of the house: who may import whom, what is light, and that the README is true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dreamer", "suites", "slurm", "analysis")

# The core, from the ground up: a file imports only files above it.
CORE = [
    *("errors", "command_line", "variants", "config", "run_folder", "machine", "seeding"),
    *("envs.simulators", "envs.checked", "envs.toys", "envs.first_frame", "envs.rendering"),
    *("envs.adapters", "envs.control_suite", "envs.tasks", "envs.environment"),
    *("packing", "replay_files", "replay", "distributions", "views"),
    *("fast.products", "fast.gru", "fast.convolutions"),
    *("fast.one_gradient", "fast.cuda_graph", "networks", "rssm", "world_model", "fast.fused"),
    *("returns", "behaviour"),
    *("planner", "agent", "checkpoint", "episodes", "schedule", "recording", "video", "prediction"),
    *("workers", "rollouts", "train", "evaluate", "player"),
    "benchmark",
]
# Of the core, what loads no PyTorch: open to all packages.
LIGHT = tuple(f"dreamer.{name}" for name in CORE[: CORE.index("run_folder") + 1])
SIMULATORS = {"dm_control", "mujoco", "ale_py", "gymnasium", "deepmind_lab"}
TRACKERS = {"sacred", "submitit", "pandas", "pyarrow", "matplotlib", "seaborn", "pymongo", "yaml"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    """dreamer/envs/toys.py -> dreamer.envs.toys; a package's __init__ is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, anywhere: bool = True) -> set[str]:
    """Dotted names that a file imports, `from a import b` as both a and a.b.

    With anywhere=False only what is imported when the file itself is, not inside functions.
    """
    names: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module))
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not anywhere:
            continue
        todo.extend(ast.iter_child_nodes(node))
    return names


def imports_in_strings(path: Path) -> set[str]:
    """Our modules that a file names in a string to import or to execute them: an argument of
    `import_module`, a module after `-m`, a module's name by itself, lines of a program."""
    texts = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    ours = rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+"
    alone = {text for text in texts if re.fullmatch(ours, text) and source_of(text).exists()}
    lines = re.findall(rf"^\s*(?:from|import) ({ours})", "\n".join(texts), re.MULTILINE)
    return alone | set(lines)


def source_of(module: str) -> Path:
    return ROOT / Path(*module.split(".")).with_suffix(".py")


def test_imports_in_strings_are_found(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from importlib import import_module\n"
        "import_module('suites.run')\n"
        "words = ['python', '-m', 'slurm.doctor']\n"
        'program = """\nimport json\nfrom dreamer.agent import Agent\n"""\n'
        "text = 'see suites.audit, and suites.nothing'\n"
    )
    assert imports_in_strings(path) == {"suites.run", "slurm.doctor", "dreamer.agent"}


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def loaded_by(code: str) -> set[str]:
    """Top-level packages in memory after running `code` in a new process."""
    show = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", f"{code}\n{show}"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("path", sources("dreamer"), ids=module_name)
def test_the_core_imports_downwards_and_nothing_of_ours(path: Path) -> None:
    names = imports(path) | imports_in_strings(path)
    assert not tops(names) & ({"suites", "slurm", "analysis"} | TRACKERS)
    assert not tops(imports(path, anywhere=False)) & SIMULATORS
    if path.stem == "__init__":
        assert imports(path) <= {"signal", "sys"}
        return
    own = module_name(path).removeprefix("dreamer.")
    assert own in CORE, f"give {own} its place in the order of the core"
    below = tuple(CORE[: CORE.index(own)])
    ours = {n.removeprefix("dreamer.") for n in imports(path) if n.startswith("dreamer.")}
    above = {
        n for n in ours - {"fast", "envs"} if n not in below and n.rpartition(".")[0] not in below
    }
    assert not above, f"{own} may import what comes before it, not {above}"


@pytest.mark.parametrize("path", [p for name in PACKAGES for p in sources(name)], ids=module_name)
def test_sacred_and_the_training_loop_meet_in_one_file(path: Path) -> None:
    names = imports(path)
    if module_name(path) != "suites.execution.sacred_run":
        assert not ({"dreamer.train"} & names and "sacred" in tops(names))


def test_that_file_is_there() -> None:
    names = imports(ROOT / "suites/execution/sacred_run.py")
    assert "dreamer.train" in names
    assert "sacred" in names


# What SLURM jobs share with other executors, and profiles with suites.
SHARED_WITH_SLURM = {
    "suites.language.nodes",
    "suites.execution.environment",
    "suites.execution.signals",
    "suites.execution.spec",
    "suites.record.folder",
}


@pytest.mark.parametrize("path", sources("slurm"), ids=module_name)
def test_slurm_knows_jobs_and_no_suites(path: Path) -> None:
    """It loads the agent only in the doctor's checks, and of suites only leaves."""
    names = imports(path) | imports_in_strings(path)
    assert not tops(names) & {"analysis", "sacred"}
    ours = {name for name in names if name.startswith("suites.") and source_of(name).exists()}
    assert ours <= SHARED_WITH_SLURM
    light = imports(path, anywhere=False) if path.stem == "checks" else names
    assert "torch" not in tops(light)
    core = {name for name in light if name.startswith("dreamer.")}
    assert all(name.startswith(LIGHT) for name in core)


@pytest.mark.parametrize("module", sorted(SHARED_WITH_SLURM))
def test_what_slurm_shares_with_suites_is_a_leaf(module: str) -> None:
    ours = tops(imports(source_of(module))) & set(PACKAGES)
    assert ours <= {"dreamer"}
    core = {name for name in imports(source_of(module)) if name.startswith("dreamer.")}
    assert all(name.startswith(LIGHT) for name in core)


@pytest.mark.parametrize("path", sources("suites"), ids=module_name)
def test_suites_are_read_executed_and_recorded_in_rooms_of_their_own(path: Path) -> None:
    """The language and the records know no command and no attempt; only executors know SLURM."""
    names = {name for name in imports(path) if source_of(name).exists()}
    room = path.relative_to(ROOT / "suites").parts[0]
    commands = {f"suites.{path.stem}" for path in (ROOT / "suites").glob("*.py")}
    if room in ("language", "record", "execution"):
        assert not names & commands
    executing = {name for name in names if name.startswith("suites.execution.")}
    if room == "language":
        assert executing <= {"suites.execution.executors"}
        assert not any(name.startswith("suites.record.") for name in names)
    if room == "record":
        assert executing <= {"suites.execution.environment"}
    if path.stem not in ("cluster", "executors"):
        assert not tops(names) & {"slurm", "submitit"}


def test_no_executor_is_known_by_name() -> None:
    from suites.execution.executors import EXECUTORS

    for path in sources("suites"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        compared = [
            constant.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare)
            for constant in ast.walk(node)
            if isinstance(constant, ast.Constant)
        ]
        assert not set(EXECUTORS) & set(compared), path
        modules = {f"suites.execution.{name}" for name in ("local", "debug", "cluster")}
        if path.parent.name == "suites":
            assert not modules & imports(path), path


FILES = re.compile(
    r"(config|status|provenance|slurm)\.json|metrics(\.discarded)?\.jsonl|curves\.csv"
    r"|prediction\.(npz|mp4)|(log|error)\.txt|checkpoint-.*\.pt|.*\.pt\.sha256|attempts/.*"
)


@pytest.mark.parametrize(
    "path",
    [p for name in PACKAGES for p in sources(name) if p.stem != "run_folder"],
    ids=module_name,
)
def test_only_run_folder_knows_the_names_of_a_run_s_files(path: Path) -> None:
    texts = {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not {text for text in texts if FILES.fullmatch(text)}


@pytest.mark.parametrize("path", sources("analysis"), ids=module_name)
def test_analysis_reads_records_only(path: Path) -> None:
    names = imports(path) | imports_in_strings(path)
    assert not tops(names) & ({"torch", "sacred", "submitit", "slurm"} | SIMULATORS)
    core = {name for name in names if name.startswith("dreamer.")}
    assert all(name.startswith(LIGHT) for name in core)


# What the rooms of analysis import of one another, from the ground up.
ROOMS = {
    "read": {"read"},
    "count": {"read", "count", "variants"},
    "draw": {"read", "count", "draw", "variants"},
    "report": {"read", "count", "draw", "report"},
}
READERS = {"frame", "files", "mongo", "cache"}


@pytest.mark.parametrize("path", sources("analysis"), ids=module_name)
def test_rooms_of_analysis_import_downwards_and_one_reads(path: Path) -> None:
    """Figures, tables and the report take their numbers from a Summary: they read no records."""
    room = path.parent.name
    if room == "analysis":
        return
    ours = {tuple(name.split(".")[1:3]) for name in imports(path) if name.startswith("analysis.")}
    assert {one[0] for one in ours} <= ROOMS[room]
    if room in ("draw", "report"):
        assert not {one[1] for one in ours if one[0] == "read" and len(one) == 2} & READERS


def test_analysis_and_commands_start_without_torch_and_simulators() -> None:
    heavy = {"torch"} | SIMULATORS
    assert "torch" in loaded_by("import dreamer.rssm")  # otherwise the next lines show nothing
    reading = ", ".join(map(module_name, sources("analysis")))
    assert not loaded_by(f"import {reading}") & heavy
    assert not loaded_by("import suites.run, suites.status") & (heavy | {"pandas", "sacred"})
    assert not loaded_by("from dreamer.envs.tasks import TASKS") & heavy


def test_everything_imports() -> None:
    """Also what the pinned set of versions must get along with: dm_control, Sacred, submitit."""
    modules = [module_name(path) for package in PACKAGES for path in sources(package)]
    others = ["dm_control.suite", "sacred", "sacred.observers", "submitit", "pandas", "seaborn"]
    code = "\n".join(f"import {name}" for name in [*modules, *others])
    environment_first = "from dreamer.envs.rendering import choose_renderer; choose_renderer()\n"
    assert set(PACKAGES) - {"slurm"} <= loaded_by(environment_first + code)


def tracked_text() -> list[Path]:
    """What is in the repository, without tests and binary files."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True)
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".txt", ".cfg", ".csv", ".json", ""}
    paths = [ROOT / name for name in done.stdout.splitlines() if not name.startswith("tests/")]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def test_no_file_knows_one_machine() -> None:
    private = re.compile(r"(?<![\w.~}])/(home|root|Users|work|mnt|scratch)/\w")
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked_text()
        if (match := private.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert len(tracked_text()) > 20
    assert not found


# --- The documents ------------------------------------------------------------------------------

DOCUMENTS = [path for path in tracked_text() if path.suffix == ".md"]


def headings(path: Path) -> set[str]:
    """The headings of a document, as links name them."""
    return {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).strip().replace(" ", "-")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        target, _, heading = link.partition("#")
        there = path.parent / target if target else path
        assert there.exists(), f"{link} is not there"
        assert not heading or heading in headings(there), f"no heading for {link}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_commands_name_what_exists(path: Path) -> None:
    """Make targets, modules, scripts and suites in the code blocks and lines of a document."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:bash|sh|console)?\n(.*?)```", text, re.DOTALL)
    commands = "\n".join(blocks + re.findall(r"`([^`\n]+)`", text))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", commands, re.MULTILINE)) <= targets
    for module in re.findall(r"python -m ((?:dreamer|suites|slurm|analysis)\.[\w.]+)", commands):
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").exists(), module
    for script in re.findall(r"(?<![\w/])((?:analysis|suites|slurm|\.ci)/[\w./-]+\w)", commands):
        assert (ROOT / script).exists(), script


def test_the_readme_begins_with_the_two_commands() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    assert "make quickstart" in first_screen
    assert "make test" in first_screen
