"""Atari, DeepMind Lab and Gymnasium: what each promises besides the contract (test_envs.py)."""

from __future__ import annotations

import sys

import deepmind_lab
import gymnasium_like
import numpy as np
import pytest

from dreamer.config import make_config
from dreamer.envs.adapters import AtariSimulator
from dreamer.envs.environment import Environment, make_environment
from dreamer.envs.simulators import as_picture
from dreamer.envs.tasks import make_simulator
from dreamer.errors import ConfigError, UserError


def one_hot(index: int, size: int) -> np.ndarray:
    return np.eye(size, dtype=np.float32)[index]


def play(environment: Environment, action: np.ndarray, seed: int = 0) -> list:
    """The steps of an episode of one action."""
    steps = [environment.reset(seed)]
    while not (steps[-1].terminal or steps[-1].truncated):
        steps.append(environment.step(action))
    return steps


def config(task: str, **overrides):
    return make_config("tiny", {"task": task, "time_limit_env_steps": 100_000, **overrides})


# --- Pictures -----------------------------------------------------------------------------------


def test_frames_of_any_size_become_64x64() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    same = as_picture(frame)
    assert same is not frame
    np.testing.assert_array_equal(same, frame)
    line = np.zeros((210, 160, 3), np.uint8)
    for row in range(60, 70):  # a line one row high fades, wherever it is, but never vanishes
        picture = as_picture(np.where(np.arange(210)[:, None, None] == row, 255, line))
        assert 200 < picture[..., 0].sum(0).max() / (64 / 210) < 300


# --- Atari --------------------------------------------------------------------------------------

FIRE = 1


@pytest.fixture
def breakout():
    pytest.importorskip("ale_py")
    return AtariSimulator("breakout", full_games=False)


def test_atari_has_the_full_action_set(breakout) -> None:
    assert breakout.action_space == (18, True)


def test_a_lost_life_ends_the_episode_for_learning_and_a_game_the_evaluation() -> None:
    pytest.importorskip("ale_py")
    lengths, fire = {}, one_hot(FIRE, 18)
    for evaluation in (False, True):
        environment = make_environment(config("atari:breakout", action_repeat=4), evaluation)
        *before, last = play(environment, fire)
        assert last.terminal and not last.truncated
        assert not any(step.terminal for step in before)
        lengths[evaluation] = sum(step.env_steps for step in [*before, last])
        assert environment.simulator._ale.lives() == (0 if evaluation else 4)
    assert lengths[True] > 3 * lengths[False] > 100


def test_the_limit_is_no_terminal_in_atari() -> None:
    pytest.importorskip("ale_py")
    environment = make_environment(config("atari:breakout", time_limit_env_steps=50))
    assert play(environment, one_hot(0, 18))[-1][2:4] == (False, True)


def test_actions_stick_in_a_quarter_of_the_frames(breakout) -> None:
    stuck, frames = 0, 0
    for seed in range(10):
        breakout.reset(seed)
        for frame in range(100):
            asked = 2 + frame % 2
            breakout.advance(one_hot(asked, 18))
            held = breakout._held == breakout._actions[asked]
            stuck, frames = stuck + (not held), frames + 1
    # Kept once it differs from the alternating action, kept twice it agrees again, and so on:
    # 1/4 - 1/16 + 1/64 - ... = 1/5.
    assert abs(stuck / frames - 0.2) < 0.04


def test_episodes_begin_with_1_to_30_frames_of_nothing(breakout) -> None:
    counts = []
    for seed in range(100):
        breakout.reset(seed)
        counts.append(breakout._ale.getEpisodeFrameNumber())
    assert max(counts) - min(counts) == 29 and len(set(counts)) > 20


def test_atari_is_the_right_way_up_and_in_colour(breakout) -> None:
    """Breakout: rows of bricks from red to blue in the upper half, the red paddle at the bottom."""
    breakout.reset(0)
    image = breakout.image().astype(int)
    red, blue = image[18, 8:56], image[27, 8:56]
    assert (red[:, 0] > red[:, 2] + 50).all() and (blue[:, 2] > blue[:, 0] + 50).all()
    assert image[32:50, 8:56].max() < 30  # only the ball is between bricks and paddle
    bottom = image[57:60, 8:56]
    assert bottom[..., 0].max() > 100 > bottom[..., 2].max()


def test_what_flickers_is_seen_in_every_picture(breakout) -> None:
    breakout.reset(0)
    even, odd = np.zeros((2, 210, 160, 3), np.uint8)
    even[:100], odd[100:] = 200, 100
    breakout._frame_before, breakout._frame = even, odd
    image = breakout.image()
    assert (image[:28] == 200).all() and (image[32:] == 100).all()


# --- DeepMind Lab, against a stand-in with its documented interface -------------------------------


def test_lab_levels_end_by_their_time_which_is_no_terminal() -> None:
    environment = make_environment(config("dmlab:rooms_watermaze", action_repeat=4))
    steps = play(environment, one_hot(0, 9))[1:]
    assert sum(step.env_steps for step in steps) == deepmind_lab.FRAMES
    assert (steps[-1].terminal, steps[-1].truncated) == (False, True)
    assert [step.reward for step in steps] == [step.env_steps for step in steps]  # 1 per frame
    assert steps[-1].image.max() == 0 and all(step.image.max() > 0 for step in steps[:-1])


def test_lab_evaluates_on_held_out_variants() -> None:
    train, test = (make_simulator("dmlab:rooms_watermaze", evaluation=e) for e in (False, True))
    assert train._lab.level == "contributed/dmlab30/rooms_watermaze"
    assert train._lab.config == {"width": "64", "height": "64", "logLevel": "WARN"}
    assert test._lab.config.items() > train._lab.config.items()
    assert test._lab.config["allowHoldOutLevels"] == "true"
    test.close()
    assert test._lab.closed and not train._lab.closed


# --- Gymnasium ----------------------------------------------------------------------------------


def test_gymnasiums_time_limit_is_no_terminal_and_a_fall_is_one() -> None:
    pytest.importorskip("gymnasium")
    pytest.importorskip("pygame")
    limited = make_environment(config("gymnasium:MountainCar-v0", action_repeat=4))
    steps = play(limited, one_hot(1, 3))
    assert sum(step.env_steps for step in steps) == 200
    assert (steps[-1].terminal, steps[-1].truncated) == (False, True)
    falling = make_environment(config("gymnasium:CartPole-v1", action_repeat=4))
    steps = play(falling, one_hot(1, 2))
    assert (steps[-1].terminal, steps[-1].truncated) == (True, False)
    assert sum(step.reward for step in steps) == sum(step.env_steps for step in steps) < 20


def test_box_actions_reach_their_bounds() -> None:
    simulator = make_simulator("gymnasium_like:make")
    assert simulator.action_space == (2, False)
    simulator.reset(0)
    for action, native in (([-1, -1], [0, -10]), ([1, 1], [1, 30]), ([0, 0.5], [0.5, 20])):
        simulator.advance(np.array(action, np.float32))
        np.testing.assert_allclose(simulator._env.taken[:, 0], native, rtol=1e-6)


def test_the_limit_of_an_environment_of_ones_own() -> None:
    steps = play(make_environment(config("gymnasium_like:make")), np.zeros(2, np.float32))
    assert sum(step.env_steps for step in steps) == gymnasium_like.LIMIT
    assert (steps[-1].terminal, steps[-1].truncated) == (False, True)


def test_what_cannot_be_seen_or_done_is_said() -> None:
    with pytest.raises(UserError, match=r"shows no picture.*render_mode='rgb_array'"):
        make_simulator("gymnasium_like:blind")
    with pytest.raises(UserError, match="only Discrete, MultiDiscrete, MultiBinary and Box"):
        make_simulator("gymnasium_like:odd")


# --- Names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "package", "said"),
    [
        ("atari:pongg", "ale_py", "did you mean 'pong'"),
        ("gymnasium:CarRacin-v3", "gymnasium", "did you mean 'CarRacing-v3'"),
        ("atary:pong", None, "did you mean 'atari'"),
        ("gymnasium_like:mak", None, "did you mean 'make'"),
        ("atari:", None, "did you mean 'atari:NAME'"),
        ("cartpole_balence", None, "did you mean 'cartpole_balance'"),
    ],
)
def test_unknown_names_name_the_nearest(task: str, package: str | None, said: str) -> None:
    if package:
        pytest.importorskip(package)
    with pytest.raises(ConfigError, match=said) as error:
        make_simulator(task)
    assert error.value.key == "task"


@pytest.mark.parametrize(
    ("task", "module", "how"),
    [
        ("atari:pong", "ale_py", "pip install ale-py"),
        ("gymnasium:CarRacing-v3", "gymnasium", "pip install gymnasium"),
        ("dmlab:rooms_watermaze", "deepmind_lab", "github.com/google-deepmind/lab"),
    ],
)
def test_what_is_missing_is_named(task: str, module: str, how: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if not installed
    with pytest.raises(UserError, match=f"needs the Python module {module}: .*{how}"):
        make_simulator(task)


def test_gymnasium_says_what_an_environment_needs(monkeypatch) -> None:
    pytest.importorskip("gymnasium")
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"needs more than is installed.*box2d"):
        make_simulator("gymnasium:CarRacing-v3")


def test_cameras_are_chosen_in_the_control_suite_only() -> None:
    pictures = []
    for camera in (-1, 2, 0):  # 0 is a choice, not a missing value
        environment = make_environment(config("quadruped_walk", camera=camera))
        pictures.append(environment.reset(5).image)
        environment.close()
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert np.any(pictures[0] != pictures[2])
    with pytest.raises(ConfigError, match="cameras 0 to"):
        make_environment(config("quadruped_walk", camera=99))
    with pytest.raises(ConfigError, match="no cameras"):
        make_environment(config("toy_dot", camera=0))
