"""The functions for notebooks, the README that describes them, and the notebook itself."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import nbformat
import pytest
from helpers import SUITE, suite_file
from matplotlib.figure import Figure
from nbclient import NotebookClient

import analysis
from analysis import make_figures, reproduction, synthetic
from analysis.read.frame import FRAME_COLUMNS
from dreamer.errors import UserError
from suites import run
from suites.language.suite import expand

ROOT = Path(__file__).parents[2]
README = (ROOT / "analysis" / "README.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "analysis" / "first_look.ipynb"
SWEEP = """
preset: tiny
env_steps: 1e4
eval_every_env_steps: 1000
seeds: 2
x: horizon
grid: {task: [cartpole_balance, hopper_hop], horizon: [5, 10]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Synthetic results of the quickstart, and the suites beside them."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "suites").symlink_to(ROOT / "suites")
    (folder / "sweep.yaml").write_text(SWEEP)
    paths = [folder / "suites/quickstart.yaml", folder / "sweep.yaml"]
    synthetic.write_suites(folder / "results", paths)
    return folder


def test_frame_is_tidy_and_has_any_metric(folder):
    path, results = folder / "suites/quickstart.yaml", folder / "results"
    frame = analysis.suite_frame(path, results)
    assert tuple(frame.columns) == FRAME_COLUMNS
    assert set(frame["run_id"]) == {run.run_id for run in expand(path).runs}
    assert set(frame["metric"]) == {"evaluate_return", "episode_return"}
    kl = analysis.suite_frame(path, results, metrics=["kl"])["metric"]
    assert set(kl) == set(kl.cat.categories) == {"kl"}


def test_plots_go_on_the_axes_that_one_gives(folder):
    quick = analysis.suite_summary(folder / "suites/quickstart.yaml", folder / "results")
    sweep = analysis.suite_summary(folder / "sweep.yaml", folder / "results")
    axes = Figure().subplots(3)
    assert analysis.plot_curves(quick, "toy_dot", axes[0]) is axes[0]
    assert analysis.plot_sweep(sweep, "hopper_hop", axes[1]) is axes[1]
    assert analysis.plot_bars(quick, axes[2]) is axes[2]
    assert axes[0].get_title() == "Toy Dot" and axes[0].get_xlabel() == "Environment steps"
    assert axes[1].get_xlabel() == "Horizon"
    assert len(axes[2].patches) == 2
    assert isinstance(analysis.plot_curves(quick, "toy_dot").figure, Figure)


def test_aggregates_need_two_tasks_of_one_scale(folder):
    sweep = analysis.suite_summary(folder / "sweep.yaml", folder / "results")
    with pytest.raises(UserError, match="fewer than two tasks"):
        analysis.plot_aggregates(sweep)
    path = folder / "plain.yaml"
    path.write_text(SWEEP.replace("x: horizon\n", "").replace("horizon: [5, 10]", "horizon: 5"))
    axes = analysis.plot_aggregates(analysis.suite_summary(path, folder / "results"))
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "Mean", "Median", "IQM", "Optimality gap\n(less is better)",
    ]  # fmt: skip


def test_figures_of_a_suite_are_those_of_the_command(folder):
    figures = analysis.suite_figures(folder / "sweep.yaml", folder / "results")
    assert {"sweep", "observations"} <= set(figures)
    assert all(isinstance(figure, Figure) for figure in figures.values())


def test_mistakes_are_user_errors(folder):
    path = folder / "suites/quickstart.yaml"
    with pytest.raises(UserError, match="no such results folder"):
        analysis.suite_frame(path, folder / "nothing")
    with pytest.raises(UserError, match="no values of klx"):
        analysis.suite_summary(path, folder / "results", metric="klx")
    summary = analysis.suite_summary(path, folder / "results")
    with pytest.raises(UserError, match="did you mean 'toy_dot'"):
        analysis.plot_curves(summary, "toy_dott")
    with pytest.raises(UserError, match="give `x:`"):
        analysis.plot_sweep(summary, "toy_dot")


def test_importing_changes_nothing():
    """No PyTorch, and no other style for the figures of the notebook."""
    code = """
import sys, matplotlib
before = dict(matplotlib.rcParams)
from analysis import suite_frame
assert dict(matplotlib.rcParams) == before
print(*{"torch", "sacred"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr + done.stdout


def test_reading_records_loads_no_matplotlib():
    code = (
        "import sys, analysis.read.frame, analysis.read.files; print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# --- the README ------------------------------------------------------------------------------


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


def test_the_readme_s_python_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    matplotlib.use("agg")
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "analysis/README.md", "exec"), names)
    assert (folder / "mine.png").stat().st_size > 5000


def test_the_readme_s_commands_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    mains = {"make_figures": make_figures.main, "reproduction": reproduction.main}
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 4
    for line in lines:
        python, script, *words = line.partition("#")[0].split()
        assert python == "python" and (ROOT / script).is_file()
        assert mains[Path(script).stem]([*words, "--results", "results"]) == 0
    assert (folder / "report.html").exists() and (folder / "results/figures/quickstart").is_dir()


def test_the_readme_s_suite_draws_a_sweep(tmp_path):
    [block] = blocks("yaml")
    shown = expand(suite_file(tmp_path, block)).shown
    assert shown.figures == ("sweep", "curves") and shown.x.label == "Imagination horizon"


# --- the notebook ----------------------------------------------------------------------------


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [one for cell in notebook.cells for one in cell.get("outputs", ())]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """In a checkout with the results of a suite that is called quickstart."""
    for name in ("analysis", "suites"):
        (tmp_path / name).mkdir()
    suite = suite_file(tmp_path / "suites", SUITE.replace("seeds: 3", "seeds: 2"), "quickstart")
    assert run.main([str(suite), "--results", str(tmp_path / "results")]) == 0
    shutil.copy(NOTEBOOK, tmp_path / "analysis")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(tmp_path / "analysis" / NOTEBOOK.name, as_version=4)
    where = {"metadata": {"path": str(tmp_path / "analysis")}}
    NotebookClient(notebook, timeout=120, resources=where).execute()
    found = outputs(notebook)
    assert not [one for one in found if one.get("name") == "stderr"]
    pictures = [one["data"]["image/png"] for one in found if "image/png" in one.get("data", {})]
    assert [len(base64.b64decode(text)) > 5000 for text in pictures] == [True, True]
    tables = [one["data"]["text/html"] for one in found if "text/html" in one.get("data", {})]
    assert len(tables) == 2 and all("toy_dot" in table for table in tables)


def test_the_notebook_is_shown_with_its_outputs():
    """As it was run, from the first cell to the last, small and without a machine's paths."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert len(text) < 300_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {one.output_type for one in outputs(notebook)} == {
        "stream", "execute_result", "display_data"
    }  # fmt: skip
    shown = [str(one.get("text", "")) + str(one.get("data", "")) for one in outputs(notebook)]
    assert not [one for one in shown if re.search(r"(?<![\w.=/+])/(home|root|work|tmp|usr)/", one)]
