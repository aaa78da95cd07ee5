"""Random actions: the same command gives the same numbers, and pictures change none of them."""

from __future__ import annotations

import csv

import pytest

from dreamer.config import make_config
from dreamer.envs.environment import make_environment
from dreamer.episodes import random_action
from dreamer.seeding import numpy_generator, stream_seed
from suites import random_scores
from suites.random_scores import random_returns


def test_pictures_make_no_difference():
    env = make_environment(make_config("published", {"task": "cartpole_swingup", "camera": 0}))
    generator = numpy_generator(3, "score", 0)
    step, total = env.reset(stream_seed(3, "score", 0)), 0.0
    for _ in range(20):
        step = env.step(random_action(generator, 1, discrete=False))
        total += step.reward
    env.close()
    assert random_returns("cartpole_swingup", 1, 3, 2, time_limit_env_steps=40) == [total]


def test_the_table_that_is_shipped_is_what_the_command_measures(tmp_path):
    from analysis.count.published import random_scores as shipped

    path = tmp_path / "random.csv"
    assert random_scores.main(["pendulum_swingup", "--out", str(path)]) == 0
    with path.open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["score_mean"]) == pytest.approx(shipped()["pendulum_swingup"], abs=0.01)
    assert row["episodes"] == "20"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cheetah_runn"], "did you mean 'cheetah_run'"),
        (["--episodes", "1"], "--episodes"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, capsys, words, message):
    assert random_scores.main([*words, "--out", str(tmp_path / "random.csv")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert random_scores.main(["--out", str(tmp_path / "no" / "random.csv")]) == 2
