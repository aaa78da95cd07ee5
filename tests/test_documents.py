"""What the documents show works: their suites expand, their commands know the options shown, and
the first commands of suites/README.md run as they stand."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from dreamer import run_folder
from suites.language.suite import SUITE_KEYS, expand

LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=ROOT, check=True, capture_output=True, text=True,
)  # fmt: skip
DOCUMENTS = [ROOT / name for name in LISTED.stdout.splitlines() if (ROOT / name).exists()]


def blocks(path: Path, kind: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```(?:{kind})\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


YAML = [(path, number) for path in DOCUMENTS for number, _ in enumerate(blocks(path, "yaml"))]


@pytest.mark.parametrize(
    ("path", "number"), YAML, ids=[f"{p.parent.name}/{p.name}-{n}" for p, n in YAML]
)
def test_suites_in_documents_have_runs(path: Path, number: int, tmp_path: Path) -> None:
    for suite in (ROOT / "suites").glob("*.yaml"):  # for `include`
        shutil.copy(suite, tmp_path)
    written = tmp_path / "of_a_document.yaml"
    written.write_text(blocks(path, "yaml")[number])
    assert len(expand(written).runs) > 0


@functools.cache
def help_of(module: str) -> str:
    words = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_commands_in_documents_know_the_options_shown(path: Path) -> None:
    shown = "\n".join(blocks(path, "bash|sh|") + re.findall(r"`([^`\n]+)`", path.read_text()))
    for module, rest in re.findall(r"python -m ((?:suites|slurm)\.\w+)([^#\n|]*)", shown):
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest):
            assert re.search(rf"{option}\b", help_of(module)), f"{module} has no {option}"


def test_the_suites_readme_names_every_file_of_a_run() -> None:
    text = (ROOT / "suites/README.md").read_text(encoding="utf-8")
    names = {v for k, v in vars(run_folder).items() if k.isupper() and isinstance(v, str)}
    assert len(names) > 12
    assert not {name for name in names - {run_folder.CODE} if name not in text}


def test_the_suites_readme_shows_every_key_of_a_suite() -> None:
    text = (ROOT / "suites/README.md").read_text(encoding="utf-8")
    shown = {key for key in SUITE_KEYS if re.search(rf"^{key}:|`{key}`", text, re.MULTILINE)}
    assert shown == set(SUITE_KEYS)


def test_the_commands_of_the_suites_readme_run_as_they_stand(tmp_path: Path) -> None:
    document = ROOT / "suites/README.md"
    suite = next(text for text in blocks(document, "yaml") if text.startswith("# example.yaml"))
    (tmp_path / "example.yaml").write_text(suite)
    lines = [line for block in blocks(document, "bash") for line in block.splitlines()]
    assert len(lines) >= 8
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DREAMER_MONGO_URL": ""}
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[:2] == ["python", "-m"], line
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, env=environment, timeout=300,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


PYTHON = [path for path in DOCUMENTS if blocks(path, "python")]


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_python_in_documents_is_run_by_a_test(path: Path) -> None:
    assert path in (ROOT / "dreamer/README.md", ROOT / "analysis/README.md")


def test_the_python_of_the_dreamer_readme_runs_as_it_stands(tmp_path: Path) -> None:
    code = "\n".join(blocks(ROOT / "dreamer/README.md", "python"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, timeout=300,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"return \d+\.\d\n", done.stdout)
