"""From suites to runs: what is accepted, what is refused and where, which runs are the same."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamer.config import BEFORE, PRESETS, config_from_dict, make_config, outcome_values
from dreamer.envs.tasks import TASKS, is_task
from dreamer.errors import UserError
from suites.language.axes import TASK_SETS
from suites.language.identity import overrides_of, run_id
from suites.language.suite import expand, merge

SUITES = Path(__file__).parents[2] / "suites"
COMMITTED = sorted(SUITES.glob("*.yaml"))


def runs_of(tmp_path: Path, text: str, **overrides):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return expand(path, overrides).runs


def error_of(tmp_path: Path, text: str, **overrides) -> str:
    """The message without the folder."""
    with pytest.raises(UserError) as caught:
        runs_of(tmp_path, text, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{tmp_path}/", "")


BASE = "preset: tiny\ntask: toy_dot\n"


# --- The paper's suites ---------------------------------------------------------------------------


def count(*names: str) -> int:
    return len(merge([expand(SUITES / f"{name}.yaml") for name in names]))


def test_figures_have_the_paper_s_number_of_runs():
    assert count("figure6") == 120
    assert count("figure9") == count("figure10") == 180
    assert count("figure11") == 120


def test_figures_with_one_preset_and_budget_share_380_runs():
    names = ("figure6", "figure9", "figure10", "figure11")
    runs = merge([expand(SUITES / f"{name}.yaml") for name in names])
    assert {r.config["preset"] for r in runs} == {"submission"}
    assert {r.config["env_steps"] for r in runs} == {2_000_000}
    assert len(runs) == 380
    base = [r for r in runs if set(r.suites) == set(names)]
    assert len(base) == 20 * 2  # figure 11 has two of the three seeds


def test_paper_has_each_run_once_and_says_who_names_it(capsys):
    paper = expand(SUITES / "paper.yaml")
    ids = [run.run_id for run in paper.runs]
    assert len(set(ids)) == len(ids)
    names = [*(f"figure{number}" for number in range(4, 12)), "discrete"]
    parts = [SUITES / f"{name}.yaml" for name in names]
    assert set(ids) == {run.run_id for path in parts for run in expand(path).runs}
    base = [r for r in paper.runs if {"figure6", "figure9", "figure10"} <= set(r.suites)]
    assert len(base) == 60  # dreamer on all tasks with all seeds: trained once
    for run in paper.runs:
        assert "paper" in run.suites and len(run.suites) >= 2
    with capsys.disabled():
        print(f" [paper.yaml: {len(ids)} runs]", end="")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_suites_are_short_and_their_runs_are_valid_configurations(path):
    assert len(path.read_text().splitlines()) <= 30
    suite = expand(path)
    assert suite.about
    for run in suite.runs:
        config = config_from_dict(run.config)  # validates everything
        assert run.run_id == run_id(run.config)
        assert is_task(config.task)


def test_control_suite_is_the_20_tasks():
    assert len(TASK_SETS["control_suite"]) == 20
    assert set(TASK_SETS["control_suite"]) <= set(TASKS)


# --- Expansion ------------------------------------------------------------------------------------


def test_grid_is_the_product_and_zip_advances_together(tmp_path):
    text = BASE + (
        "seeds: 2\ngrid: {behaviour: [dreamer, planet]}\nzip: {horizon: [5, 6], length: [10, 11]}\n"
    )
    keys = ("behaviour", "horizon", "length", "seed")
    found = [tuple(r.config[k] for k in keys) for r in runs_of(tmp_path, text)]
    expected = [(b, h, h + 5, s) for b in ("dreamer", "planet") for h in (5, 6) for s in (0, 1)]
    assert found == expected


def test_several_grids_are_united(tmp_path):
    text = BASE + (
        "grid:\n  - {behaviour: [dreamer, no_value], horizon: [5, 6]}\n"
        "  - {behaviour: planet, planner_horizon: [5, 6, 7]}\n"
    )
    runs = runs_of(tmp_path, text)
    assert len(runs) == 4 + 3
    assert {r.config["planner_horizon"] for r in runs if r.config["behaviour"] == "dreamer"} == {8}


def test_task_sets_tasks_and_exclude(tmp_path):
    text = """
preset: submission
seeds: [3, 5]
task_sets:
  mine: [walker_run, toy_dot]
tasks:
  walker_run: {env_steps: 7e3, eval_episodes: 2}
grid:
  task: [mine, cheetah_run]
  behaviour: [dreamer, planet]
exclude:
  - {behaviour: planet, task: [toy_*, cheetah_run]}
  - {task: mine, seed: 5, behaviour: dreamer}
"""
    runs = runs_of(tmp_path, text)
    found = {(r.config["task"], r.config["behaviour"], r.config["seed"]) for r in runs}
    assert found == {
        ("walker_run", "dreamer", 3),
        ("walker_run", "planet", 3),
        ("walker_run", "planet", 5),
        ("toy_dot", "dreamer", 3),
        ("cheetah_run", "dreamer", 3),
        ("cheetah_run", "dreamer", 5),
    }
    for run in runs:
        special = run.config["task"] == "walker_run"
        assert run.config["env_steps"] == (7000 if special else PRESETS["submission"]["env_steps"])


def test_replay_of_a_shared_run_is_kept_if_one_suite_needs_it(tmp_path):
    suites = []
    for name, extra in (("a", ""), ("b", "keep_replay: always\n"), ("c", "")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(BASE + extra)
        suites.append(expand(path))
    [run] = merge(suites)
    assert run.config["keep_replay"] == "always" and run.suites == ("a", "b", "c")
    assert suites[0].runs[0].config["keep_replay"] == "until_done"


def test_included_runs_keep_their_settings_and_are_shared(tmp_path):
    (tmp_path / "a.yaml").write_text(BASE + "seeds: 2\n")
    text = "include: a.yaml\n" + BASE + "seeds: 3\n"
    runs = runs_of(tmp_path, text)
    assert [r.config["seed"] for r in runs] == [0, 1, 2]
    assert runs[0].suites == ("a", "suite") and runs[2].suites == ("suite",)


def test_overrides_replace_settings_and_seeds_of_every_run(tmp_path):
    text = "preset: submission\nseeds: 3\ngrid: {task: control_suite}\n"
    runs = runs_of(tmp_path, text, task="toy_dot", preset="tiny", seeds=2, env_steps=2e3)
    assert [(r.config["task"], r.config["seed"]) for r in runs] == [("toy_dot", 0), ("toy_dot", 1)]
    assert runs[0].config == make_config("tiny", {"task": "toy_dot", "env_steps": 2000}).__dict__


def test_preset_can_be_an_axis(tmp_path):
    runs = runs_of(tmp_path, "task: toy_dot\ngrid: {preset: [tiny, small]}\n")
    sizes = [PRESETS[name]["batch_size"] for name in ("tiny", "small")]
    assert [r.config["batch_size"] for r in runs] == sizes


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    for text, value in (("2e6", 2_000_000), ("+2E+6", 2_000_000), ("2000000.0", 2_000_000)):
        assert runs_of(tmp_path, BASE + f"env_steps: {text}\n")[0].config["env_steps"] == value
    assert runs_of(tmp_path, BASE + "kl_scale: 1\n")[0].config["kl_scale"] == 1.0
    assert runs_of(tmp_path, BASE + "kl_scale: .5\n")[0].config["kl_scale"] == 0.5


def test_anchors_stand_for_their_value(tmp_path):
    text = (
        BASE + "seeds: &two [1, 2]\ngrid: {horizon: &h [5, 6]}\nzip: {length: *h, batch_size: *h}\n"
    )
    assert len(runs_of(tmp_path, text)) == 8


def test_100_000_runs_expand_to_distinct_ids(tmp_path):
    text = (
        "preset: submission\nseeds: 100\ngrid:\n  task: control_suite\n"
        "  horizon: [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]\n"
        "  discount: [0.9, 0.92, 0.95, 0.97, 0.99]\n"
    )
    runs = runs_of(tmp_path, text)
    assert len({run.run_id for run in runs}) == len(runs) == 100_000


# --- Identity -------------------------------------------------------------------------------------

OUTCOME = [name for name in outcome_values(vars(make_config("tiny"))) if name != "task"]


NUMBERS = [n for n in OUTCOME if not isinstance(getattr(make_config("tiny"), n), str)]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_setting_that_changes_the_outcome_makes_a_new_run(name):
    value = getattr(make_config("tiny"), name)
    other = {bool: not value, int: value + 1, float: value / 2 or 0.25}[type(value)]
    assert run_id(vars(make_config("tiny", {name: other}))) != run_id(vars(make_config("tiny")))


@pytest.mark.parametrize(
    ("name", "value"),
    [("log_every_updates", 7), ("checkpoint_every_env_steps", 123), ("device", "cpu")],
)
def test_what_does_not_change_the_outcome_makes_no_new_run(name, value):
    assert run_id(vars(make_config("tiny"))) == run_id(vars(make_config("tiny", {name: value})))


def test_settings_that_came_later_leave_the_ids_of_older_runs():
    """This id was given before the settings of BEFORE existed."""
    config = vars(make_config("tiny", {"actor_gradient": "exact"}))
    assert run_id(config) == "cartpole_balance-dreamer-reconstruction-tiny-s0-b9f9c114ab"
    older = {key: value for key, value in config.items() if key not in BEFORE}
    assert vars(config_from_dict(older)) == config
    for key, value in (("collect", "parallel"), ("environments", 2), ("actor_gradient", "half")):
        assert key in BEFORE and run_id({**config, key: value}) != run_id(config)


ARGUMENTS = """
preset: tiny
grid:
  task: "gymnasium:ALE/Pong-v5"
  environment: [{}, {mode: 0, repeat_action_probability: 0}, {mode: 1}]
"""


def test_arguments_of_an_environment_are_an_axis_and_part_of_the_identity(tmp_path):
    plain, *others = runs_of(tmp_path, ARGUMENTS)
    assert [run.config["environment"] for run in (plain, *others)] == [
        "",
        '{"mode":0,"repeat_action_probability":0}',
        '{"mode":1}',
    ]
    assert len({run.run_id for run in (plain, *others)}) == 3
    older = {k: v for k, v in plain.config.items() if k not in ("environment", "observation")}
    assert run_id(vars(config_from_dict(older))) == plain.run_id
    same = runs_of(
        tmp_path,
        'preset: tiny\ntask: "gymnasium:ALE/Pong-v5"\n'
        "environment: {repeat_action_probability: 0, mode: 0}",
    )
    assert same[0].run_id == others[0].run_id
    left = runs_of(tmp_path, ARGUMENTS + "exclude: [{environment: [{mode: 1}]}]")
    assert [run.run_id for run in left] == [plain.run_id, others[0].run_id]
    set_to = runs_of(tmp_path, 'preset: tiny\ntask: "a:b"\n', environment='{"mode": 1}')
    assert set_to[0].config["environment"] == '{"mode":1}'


def test_run_id_is_readable_and_stable():
    config = make_config("submission", {"task": "walker_run", "seed": 2, "behaviour": "planet"})
    assert re.fullmatch(
        r"walker_run-planet-reconstruction-submission-s2-[0-9a-f]{10}", run_id(vars(config))
    )
    shuffled = list(vars(config).items())
    random.Random(0).shuffle(shuffled)
    assert run_id(dict(shuffled)) == run_id(vars(config))


def test_a_setting_written_out_is_the_preset_s_own(tmp_path):
    own = f"env_steps: {PRESETS['tiny']['env_steps']:.1e}"
    given = runs_of(tmp_path, BASE + f"{own}\nkl_scale: 1\nkl_clip: average\n")
    assert given[0].run_id == runs_of(tmp_path, BASE)[0].run_id
    assert overrides_of(given[0].config) == {}


def test_run_id_has_no_character_that_a_file_system_minds():
    for task in TASKS:
        assert re.fullmatch(r"[\w.-]+", run_id(vars(make_config("tiny")) | {"task": task}))


# --- Bad input ------------------------------------------------------------------------------------

BAD = {
    "grid.behaviour[1]: no behaviour 'dremer'; did you mean 'dreamer'?": (
        4, BASE + "grid:\n  behaviour: [planet, dremer]\n"),
    "grid: no 'behavior'; did you mean 'behaviour'?": (4, BASE + "grid:\n  behavior: planet\n"),
    "no 'sedes'; did you mean 'seeds'?": (3, BASE + "sedes: 3\n"),
    "grid.task: no task 'walker_wlk'; did you mean 'walker_walk'?": (
        2, "preset: tiny\ngrid: {task: walker_wlk}\n"),
    "preset: no preset 'tinny'; did you mean 'tiny'?": (1, "preset: tinny\ntask: toy_dot\n"),
    "duplicate key 'horizon', first on line 3": (4, BASE + "horizon: 4\nhorizon: 5\n"),
    "env_steps: -5 is not in [1, inf]": (3, BASE + "env_steps: -5\n"),
    "env_steps: 1.5 is not of type int": (3, BASE + "env_steps: 1.5\n"),
    "env_steps: '2e6' is not of type int": (3, BASE + "env_steps: '2e6'\n"),
    "env_steps: .nan is not a finite number": (3, BASE + "env_steps: .nan\n"),
    "kl_scale: -.inf is not a finite number": (3, BASE + "kl_scale: -.inf\n"),
    "discount_head: 'yes' is not of type bool": (3, BASE + "discount_head: yes\n"),
    "seeds: a whole number is expected, not '3'": (3, BASE + "seeds: '3'\n"),
    "seeds: 0 is less than 1": (3, BASE + "seeds: 0\n"),
    "seeds[1]: 'two' is not of type int": (3, BASE + "seeds: [1, two]\n"),
    "seeds[0]: -1 is not in [0,": (3, BASE + "seeds: [-1]\n"),
    "seeds: a seed is given twice": (3, BASE + "seeds: [1, 1]\n"),
    "horizon: one value is expected, not a list": (3, BASE + "horizon: [3, 4]\n"),
    "grid.horizon: an empty list": (3, BASE + "grid: {horizon: []}\n"),
    "grid.horizon[1]: 5 is given twice": (3, BASE + "grid: {horizon: [5, 5.0]}\n"),
    "grid.horizon[0]: horizon is also given at suite.yaml:3": (
        4, BASE + "horizon: 3\ngrid: {horizon: [4]}\n"),
    "grid: a mapping (key: value) is expected, not 'x'": (3, BASE + "grid: x\n"),
    "a mapping (key: value) is expected, not a list": (1, "- preset: tiny\n"),
    "a mapping (key: value) is expected, not 'hello'": (1, "hello\n"),
    "zip.length: 1 values, but horizon has 2": (3, BASE + "zip: {horizon: [4, 5], length: [9]}\n"),
    "zip.horizon: a list is expected, not 4": (3, BASE + "zip: {horizon: 4}\n"),
    "tasks: no 'toy_dto'; did you mean 'toy_dot'?": (3, BASE + "tasks: {toy_dto: {horizon: 4}}\n"),
    "tasks.toy_dot.horizon: horizon is also an axis": (
        3, BASE + "tasks: {toy_dot: {horizon: 4}}\ngrid: {horizon: [5, 6]}\n"),
    "exclude: excludes nothing": (3, BASE + "exclude: {behaviour: planet}\n"),
    "exclude.behaviour: no behaviour 'plant'; did you mean 'planet'?": (
        3, BASE + "exclude: {behaviour: plant}\n"),
    "no runs": (1, BASE + "exclude: {behaviour: dreamer}\n"),
    "which task?": (1, "preset: tiny\n"),
    "which preset?": (1, "task: toy_dot\n"),
    "include[0]: suite.yaml includes itself": (3, BASE + "include: [suite.yaml]\n"),
    "nothing.yaml: no such file": (3, BASE + "include: nothing.yaml\n"),
    "executor: no 'slrum'; did you mean 'slurm'?": (3, BASE + "executor: slrum\n"),
    "workers: 0 is less than 1": (3, BASE + "workers: 0\n"),
    "observers: no credentials in suites": (3, BASE + "observers: mongodb://me:secret@host/x\n"),
    "not valid YAML: a tab; indent with spaces": (4, BASE + "grid:\n\thorizon: 3\n"),
    "not valid YAML: found undefined alias 'nowhere'": (3, BASE + "seeds: *nowhere\n"),
    "an anchor that contains itself": (3, BASE + "seeds: &me [*me]\n"),
    "merge keys (<<) are not supported": (3, BASE + "<<: {horizon: 3}\n"),
    "tags are not supported": (3, BASE + "horizon: !!python/name:os.system\n"),
    "environment: only of gymnasium:NAME and module:function, not toy_dot": (
        3, BASE + "environment: {frameskip: 1}\n"),
    "length: 90 agent_steps do not fit": (3, BASE + "length: 90\n"),
    "task_sets.toy_dot: 'toy_dot' is already the name of a task": (
        3, BASE + "task_sets: {toy_dot: [probe]}\n"),
}  # fmt: skip


@pytest.mark.parametrize("expected", BAD)
def test_bad_input_is_one_line_with_place_and_nearest_name(tmp_path, expected):
    line, text = BAD[expected]
    message = error_of(tmp_path, text)
    assert message.startswith(f"suite.yaml:{line}: "), message
    assert expected in message, message


def test_credentials_are_not_repeated(tmp_path):
    assert "secret" not in error_of(tmp_path, BASE + "observers: mongodb://me:secret@host/x\n")


def test_what_is_no_suite_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="a folder, not a YAML file"):
        expand(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        expand(tmp_path / "nothing.yaml")
    cases = {
        b"": "empty",
        b" \n\n": "empty",
        b"# only\n": "empty",
        b"\xff\xfe\x00": "not UTF-8",
        b"a: \x00\n": "not valid YAML",
        b"[" * 5000: "nested too deeply",
        b"a: 1\n---\na: 2\n": "another document",
    }
    for content, reason in cases.items():
        path = tmp_path / "bad.yaml"
        path.write_bytes(content)
        with pytest.raises(UserError, match=reason):
            expand(path)


@pytest.mark.parametrize("name", ["two\nlines", "red\x1b[31m", os.fsdecode(b"latin-\xe9")])
def test_a_name_that_cannot_be_printed_is_refused(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    path.write_text("preset: tiny\ngrid: {task: toy_dot}\n")
    with pytest.raises(UserError, match="the name of a suite is printable text"):
        expand(path)


def test_a_missing_file_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"did you mean '.*figure6\.yaml'"):
        expand(SUITES / "figur6.yaml")


def test_anchors_that_multiply_are_refused(tmp_path):
    levels = [f"&a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    text = BASE + "grid:\n  horizon:\n    - &a0 [4]\n" + "".join(f"    - {x}\n" for x in levels)
    assert "too many values" in error_of(tmp_path, text)


def test_too_many_runs_are_refused_before_they_are_made(tmp_path):
    assert "more than" in error_of(tmp_path, BASE + "seeds: 900000\n")
    names = ("horizon", "deter_size", "stoch_size", "hidden_size", "dense_units", "eval_episodes")
    axes = "".join(f"  {name}: [4, 5, 6, 7, 8, 9, 10, 11]\n" for name in names)
    assert "more than" in error_of(tmp_path, BASE + "grid:\n" + axes)


def test_overrides_are_checked_like_the_file(tmp_path):
    assert "did you mean 'horizon'" in error_of(tmp_path, BASE, horizn=3)
    assert error_of(tmp_path, BASE, horizon=1).startswith("--set: horizon: 1 is not in")
    assert error_of(tmp_path, BASE, length=99).startswith("--set length: ")


RICH = """# a suite that uses everything
about: everything at once
preset: tiny
env_steps: 2e3
seeds: &seeds [0, 1]
executor: local
workers: 2
observers: [mongodb://localhost:27017/dreamer]
published: [d4pg]
task_sets:
  toys: [toy_dot, probe]
grid:
  - task: toys
    behaviour: [dreamer, planet]
  - task: cartpole_balance
    representation: [reward, contrastive]
zip:
  - horizon: [5, 6]
    length: [10, 12]
tasks:
  probe:
    env_steps: 500
    kl_scale: 0.5
exclude:
  - {behaviour: planet, horizon: 5}
  - {task: toy_*, seed: 1}
"""
TEXTS = [RICH, RICH, *(p.read_text() for p in COMMITTED if p.stem not in ("figure4", "paper"))]
TOKENS = (
    "", "\t", "\n", " ", "  ", "-", "- ", ":", ": ", "{", "}", "[", "]", ",", "&a ", "*a", "*seeds",
    "!!int ", "!!python/object:os ", "|", ">", "%", "@", "`", "'", '"', "#", "~", "null", "true",
    ".nan", ".inf", "-1", "0", "1e400", "1" * 30, "2e6", "0x1F", "horizon", "task", "seeds: 3",
    "<<: *seeds", "? ", "---", "...", "\x00", "\x85", "\u2028", "é", "\U0001f600", "toy_dto", "*",
    "[[[[", "include: [suite.yaml]", "include: /", "grid", "horizon: 5", "é: 1", "2024-01-01",
)  # fmt: skip


@st.composite
def mutated(draw) -> str:
    """A suite with a few lines or tokens dropped, doubled, moved, replaced or broken."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        lines = text.split("\n")
        i = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(("drop", "double", "swap", "indent", "word", "insert", "cut")))
        if kind == "drop":
            del lines[i]
        elif kind == "double":
            lines.insert(i, lines[i])
        elif kind == "swap":
            j = draw(st.integers(0, len(lines) - 1))
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == "indent":
            lines[i] = draw(st.sampled_from((" ", "  ", "\t"))) + lines[i]
        elif kind == "word":
            words = re.findall(r"[\w.*]+", lines[i]) or [""]
            word = draw(st.sampled_from(words))
            lines[i] = lines[i].replace(word, draw(st.sampled_from(TOKENS)), 1)
        elif kind == "insert":
            at = draw(st.integers(0, len(lines[i])))
            lines[i] = lines[i][:at] + draw(st.sampled_from(TOKENS)) + lines[i][at:]
        else:
            lines = lines[: i + 1]
        text = "\n".join(lines) or "\n"
    return text


OUTCOMES = {"expanded": 0, "refused": 0}


@settings(
    max_examples=2000,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(text=mutated())
@pytest.mark.slow
def test_2000_mutated_suites_expand_or_are_refused_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    message = ""
    try:
        runs = expand(path).runs
    except UserError as error:
        message = str(error)
    if message:
        OUTCOMES["refused"] += 1
        assert len(message.splitlines()) == 1
        assert message.startswith(str(path))
        return
    assert runs and len({run.run_id for run in runs}) == len(runs)
    config_from_dict(runs[0].config)
    OUTCOMES["expanded"] += 1


@pytest.mark.slow
def test_the_mutations_were_worth_trying():
    assert OUTCOMES["expanded"] > 100 and OUTCOMES["refused"] > 500
