"""Where numbers come from: the commit, or why it is not known; users' own code; no secrets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers import QUICK, ROOT, spec_in

from analysis.count.summary import environment_problems
from dreamer.config import make_config
from dreamer.errors import UserError
from suites.execution.attempt import execute
from suites.record import mongo_urls, sinks
from suites.record.own_code import own_code
from suites.record.provenance import OURS, code
from suites.record.secrets import bare, hide, hide_word


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x", *words]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository with packages of our names."""
    for package in OURS:
        (tmp_path / "code" / package).mkdir(parents=True)
        (tmp_path / "code" / package / "__init__.py").write_text(f"name = {package!r}\n")
    root = tmp_path / "code"
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


# --- The commit -----------------------------------------------------------------------------------


def test_the_commit_and_what_differs_from_it(checkout, monkeypatch):
    found = code(checkout)
    assert found.version == git(checkout, "rev-parse", "HEAD")[:12] and not found.problem
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))  # as in a hook of another repository
    assert code(checkout) == found
    (checkout / "suites/__init__.py").write_text("name = 1\n")
    changed = code(checkout)
    assert changed.version.startswith(f"{found.version}+")
    (checkout / "suites/new.py").touch()
    assert code(checkout).version not in (changed.version, found.version)


def unpacked(checkout: Path) -> None:
    """Below another repository, as an archive or an environment."""
    shutil.rmtree(checkout / ".git")
    git(checkout.parent, "init", "-q")
    git(checkout.parent, "commit", "-qm", "thesis", "--allow-empty")


def unpacked_over_another(checkout: Path) -> None:
    """In the top folder of a repository that does not know the files."""
    shutil.rmtree(checkout / ".git")
    git(checkout, "init", "-q")
    git(checkout, "commit", "-qm", "dotfiles", "--allow-empty")


def without_repository(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")


def without_git(checkout: Path) -> None:
    os.environ["PATH"] = str(checkout)


def without_repository_and_git(checkout: Path) -> None:
    without_repository(checkout)
    without_git(checkout)


def refused(checkout: Path) -> None:
    """As for another user's checkout (dubious ownership), which takes a second user to try."""
    (checkout / ".git/config").write_text("[")


def damaged(checkout: Path) -> None:
    """The commit is known, what differs from it is not."""
    shutil.rmtree(checkout / ".git/objects")
    (checkout / ".git/objects").mkdir()


@pytest.mark.parametrize(
    ("change", "problem", "repository"),
    [
        (unpacked, "is another one", False),
        (unpacked_over_another, "did not match", True),
        (without_repository, "not a git repository", False),
        (without_repository_and_git, "git cannot be asked", False),
        (without_git, "git cannot be asked", True),  # nobody has looked
        (refused, "bad config", True),
        (damaged, "git: ", True),
    ],
)
def test_a_commit_that_is_not_known_is_a_hash_of_the_sources(
    checkout, monkeypatch, change, problem, repository
):
    monkeypatch.setenv("PATH", os.environ["PATH"])  # restored at the end
    change(checkout)
    found = code(checkout)
    assert found.commit is None and problem in found.problem
    assert found.repository == repository
    assert found.version.startswith("sources-") and code(checkout) == found
    (checkout / "dreamer/__init__.py").write_text("other = 1\n")
    assert code(checkout).version != found.version


@pytest.mark.skipif(os.getuid() != 0, reason="takes a second user")
def test_git_that_refuses_another_user_s_checkout_is_named(checkout, monkeypatch):
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 65534, 65534)
    monkeypatch.setenv("HOME", str(checkout))  # without exceptions of whoever tests
    monkeypatch.setenv("SUDO_UID", "")
    assert "dubious ownership" in code(checkout).problem


# --- Users' own code ------------------------------------------------------------------------------


def own(task: str) -> dict:
    return own_code(vars(make_config("tiny", QUICK | {"task": task})))


def test_the_files_behind_an_own_environment_are_known(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd_world.py").write_text("import json\nimport odd_helper\n")
    (tmp_path / "odd_helper.py").write_text("def reward(): return 1\n")
    (tmp_path / "not_imported.py").touch()
    before = own("odd_world:Env")["task"]
    assert [line.split()[1] for line in before["files"]] == ["odd_helper.py", "odd_world.py"]
    (tmp_path / "not_imported.py").write_text("other = 1\n")
    assert own("odd_world:Env")["task"] == before
    (tmp_path / "odd_helper.py").write_text("def reward(): return 100\n")
    assert own("odd_world:Env")["task"]["version"] != before["version"]
    package = tmp_path / "odd_package/inner"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "world.py").touch()
    files = own("odd_package.inner.world:make")["task"]["files"]
    assert [line.split()[1] for line in files] == [
        "odd_package/__init__.py",
        "odd_package/inner/world.py",
    ]


def test_the_data_that_an_own_environment_names_is_known(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    names = "['maze.txt', 'no_such.xml', '/etc/hostname', '../above.txt', 'run.log', '.', 'a\\0b']"
    (tmp_path / "odd_maze.py").write_text(f"NAMES = {names}\n")
    for name in ("maze.txt", "run.log", "other.txt"):
        (tmp_path / name).write_text("#")
    before = own("odd_maze:Env")["task"]
    assert [line.split()[1] for line in before["files"]] == ["maze.txt", "odd_maze.py"]
    for name in ("run.log", "other.txt"):
        (tmp_path / name).write_text("##")
    assert own("odd_maze:Env")["task"] == before
    (tmp_path / "maze.txt").write_text("##")
    assert own("odd_maze:Env")["task"]["version"] != before["version"]
    assets = tmp_path / "odd_robot/assets"
    assets.mkdir(parents=True)
    (assets / "leg.xml").touch()
    (assets.parent / "__init__.py").write_text("MODEL = ('assets', 'leg.xml')\n")
    files = own("odd_robot:make")["task"]["files"]
    assert [line.split()[1] for line in files] == [
        "odd_robot/__init__.py",
        "odd_robot/assets/leg.xml",
    ]


def test_packages_of_environments_and_roms_are_known():
    assert own("toy_dot") == {}
    for module, task, package in (
        ("gymnasium", "gymnasium:CartPole-v1", "gymnasium "),
        ("ale_py", "atari:pong", "ale"),
    ):
        pytest.importorskip(module)
        found = own(task)["task"]
        assert found["package"].startswith(package) and found["files"]
        assert module != "ale_py" or found["files"][-1].endswith("pong.bin")


def test_code_that_is_not_there_is_unknown():
    found = own("no_such_module:Env")["task"]
    assert found["version"] == "unknown" and "no_such_module" in found["problem"]


def test_figures_name_environments_that_differ():
    versions = [("a:Env", "1"), ("a:Env", "2"), ("b:Env", "3"), ("toy_dot", None)]
    rows = [
        {"task": task, "provenance": {"own": {"task": {"version": v}} if v else {}}}
        for task, v in versions
    ]
    [problem] = environment_problems(pd.DataFrame(rows))
    assert problem == "a:Env: several versions of the environment: 1 (1 run), 2 (1 run)"
    assert environment_problems(pd.DataFrame(rows[1:])) == []


# --- Secrets --------------------------------------------------------------------------------------

SECRETS = {"hunter two": "a password with a space", "pa/ss?w@rd:": "with all marks of a URL"}
KEY, SESSION = "key-file-pass", "aws-session-0123"
OPTIONS = f"tlsCertificateKeyFilePassword={KEY}&authMechanismProperties=AWS_SESSION_TOKEN:{SESSION}"


@pytest.mark.parametrize("password", SECRETS)
def test_urls_lose_user_password_and_options(password, monkeypatch):
    url = f"mongodb://me:{password}@h1:1,h2:2/lab?{OPTIONS}"
    for text in (bare(url), hide_word(url), hide_word(f"--mongo={url}")):
        assert not any(secret in text for secret in (password, "me:", "rd:", KEY, SESSION))
    monkeypatch.setenv("DREAMER_MONGO_URL", url)
    text = hide(f"error: {url}: refused {password!r}, {KEY} and {SESSION}")
    assert not any(secret in text for secret in (password, KEY, SESSION))
    assert text.startswith("error: ") and "refused" in text
    assert bare("mongodb://h1:1,h2:2/lab?a=b") == "mongodb://h1:1,h2:2/lab"
    assert hide_word("--set") == "--set" and hide_word("task=a:b") == "task=a:b"
    assert hide_word("--api-key=12345") == "--api-key=***"
    assert hide("https://a.org/x?y=1 and http://b@c.org") == "https://a.org/x and http://c.org"


def test_a_suite_names_no_url_with_a_secret_option():
    pytest.importorskip("pymongo")
    mongo_urls.check(["mongodb://host/lab?replicaSet=a&tls=true"])
    with pytest.raises(UserError, match=r"mongodb://host/lab: .* DREAMER_MONGO_URL") as caught:
        mongo_urls.check([f"mongodb://host/lab?{OPTIONS}"])
    assert KEY not in str(caught.value)


def test_no_byte_of_the_results_holds_a_secret(tmp_path, monkeypatch, capfd):
    """Secrets are planted where they come from; the environment fails and quotes them all."""
    pytest.importorskip("pymongo")
    password, token = "hunter two", "tok/en+0123=="
    url = f"mongodb://me:{password}@127.0.0.1:9/lab?tlsCertificateKeyFilePassword={KEY}"
    monkeypatch.setenv("DREAMER_MONGO_URL", url)
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    monkeypatch.setattr(mongo_urls, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(sinks, "LAST_WAIT_S", 0.2)
    monkeypatch.setattr(sys, "argv", ["run", "--mongo", url, f"--token={token}"])
    monkeypatch.syspath_prepend(tmp_path)
    quoted = "import os\ndef make():\n    raise ValueError(' '.join(os.environ.values()))\n"
    (tmp_path / "odd_quoting.py").write_text(quoted)
    spec = spec_in(tmp_path / "results", task="odd_quoting:make")
    with pytest.warns(UserWarning, match=r"127\.0\.0\.1:9/lab"):
        status = execute(spec)
    assert status["status"] == "FAILED" and "ValueError" in status["error"]
    said = capfd.readouterr()
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    written = b"\n".join(path.read_bytes() for path in files).decode(errors="replace")
    assert len(files) > 5
    for secret in (password, "hunter", KEY, token):
        assert secret not in written and secret not in said.out + said.err
