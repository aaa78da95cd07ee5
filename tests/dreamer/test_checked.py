"""Other people's environments: what is accepted, and one clear line for everything else."""

from __future__ import annotations

import os

import numpy as np
import pytest
from helpers import python

from dreamer.config import make_config
from dreamer.envs.checked import as_reward
from dreamer.envs.environment import Environment, make_environment
from dreamer.envs.tasks import make_simulator
from dreamer.errors import ConfigError, UserError


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch) -> None:
    monkeypatch.setenv("DREAMER_SAID", "")


def make(name: str, **settings) -> Environment:
    task = name if ":" in name else f"odd_environments:{name}"
    return make_environment(make_config("tiny", {"task": task, "action_repeat": 1, **settings}))


def play(environment: Environment, seed: int = 0, steps: int = 100) -> list:
    """The steps of an episode of first actions."""
    action = np.zeros(environment.action_space.size, np.float32)
    action[0] = environment.action_space.discrete
    played = [environment.reset(seed)]
    while not played[-1].truncated and len(played) <= steps:
        played.append(environment.step(action))
    return played


def drawn(environment: Environment) -> np.ndarray:
    """The picture as the environment drew it."""
    return environment.simulator._env.picture()


# --- Actions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("switches", [[i >> 3 & 1, i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(16)]),
        ("wide_switches", [[[i >> 3 & 1, i >> 2 & 1], [i >> 1 & 1, i & 1]] for i in range(16)]),
        ("dials", [[a, b] for a in (0, 1) for b in (5, 6, 7)]),
    ],
)
def test_switches_are_one_hot_combinations(name: str, expected: list) -> None:
    environment = make(name)
    env, space = environment.simulator._env, environment.action_space
    assert space == (len(expected), True)
    environment.reset(0)
    taken = []
    for action in np.eye(space.size, dtype=np.float32)[:11]:
        environment.step(action)
        assert env.taken.dtype == env.action_space.dtype
        taken.append(env.taken.tolist())
    assert taken == expected[:11]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("too_many", r"1.049e\+06 choices are more than 10000"),
        ("whole", "only Discrete, MultiDiscrete, MultiBinary and Box"),
        ("one_sided", "each needs a lower and a higher bound, or none of both"),
        ("nothing_to_do", "none to choose"),
    ],
)
def test_other_actions_are_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^task: odd_environments:{name} has actions .*{said}"):
        make(name)


# --- Pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["drawn", "seen"])
@pytest.mark.parametrize("kind", ["floats", "rgba", "first", "grey"])
def test_pictures_of_every_kind_come_as_they_were_drawn(kind: str, how: str, capsys) -> None:
    environment = make(f"{how}_{kind}")
    for step in play(environment, steps=2)[2:]:
        picture = drawn(environment)
        if kind == "grey":
            picture = picture[..., :1].repeat(3, axis=2)
        np.testing.assert_array_equal(step.image, picture)
    said = capsys.readouterr().err
    source = "what render" if how == "drawn" else "its observations"
    assert said.count("\n") == 1
    assert f"its pictures are {source}" in said


@pytest.mark.parametrize("name", ["drawn_list", "drawn_whole", "drawn_large_floats"])
def test_render_may_give_what_pillow_does_not_take(name: str) -> None:
    environment = make(name)
    image = environment.reset(0).image
    np.testing.assert_allclose(image.astype(int), drawn(environment), atol=70)
    assert image.max() > 250


@pytest.mark.parametrize("name", ["seen_board", "seen_codes", "seen_bounded_codes", "seen_stack"])
def test_codes_of_a_board_are_no_picture_but_render_gives_one(name: str, capsys) -> None:
    environment = make(name)
    np.testing.assert_array_equal(environment.reset(0).image, drawn(environment))
    assert "what render() gives" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "drawn_wrong",
            r"gives float32 \[64, 64, 3\] from 0 to 255; .*uint8, or float in \[0, 1\]",
        ),
        ("drawn_flat", r"gives uint8 \[12288\]"),
        ("drawn_none", r"gives NoneType; make it with render_mode='rgb_array'"),
        ("blind_board", r"uint8 \[8, 8, 3\] is small, no value of the first one exceeds 0"),
        ("entries", "choose one with `observation`: pixels"),
    ],
)
def test_what_shows_no_picture_says_so(name: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^task: odd_environments:{name} shows no picture.*{said}"):
        make(name)


def test_a_picture_is_checked_at_each_step() -> None:
    with pytest.raises(UserError, match=r"render\(\) gives float32 \[64, 64, 3\] from 0 to 2"):
        play(make("Later"))


def test_an_entry_of_dict_observations_is_chosen_by_name() -> None:
    environment = make("entries", observation="pixels")
    step = play(environment, steps=1)[-1]
    np.testing.assert_array_equal(step.image, drawn(environment))
    with pytest.raises(ConfigError, match=r"^observation: .*did you mean 'pixels'"):
        make("entries", observation="pixel")
    with pytest.raises(UserError, match=r"observation 'place' is no picture: float32 \[1\]"):
        make("entries", observation="place")
    with pytest.raises(ConfigError, match="observes no dict"):
        make("Slide", observation="pixels")


# --- Rewards ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["paid_array", "paid_scalar"])
def test_a_reward_may_be_an_array_of_one(name: str) -> None:
    rewards = [step.reward for step in play(make(name))[1:]]
    assert rewards[1:4] == [1.0, 2.5, 1.0]
    assert {type(reward) for reward in rewards} == {float}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("paid_nan", "nan"),
        ("paid_two", r"array\(\[1., 2.\]\)"),
        ("paid_none", "None"),
        ("paid_text", "'much'"),
        ("paid_huge", r"1e\+39"),
    ],
)
def test_other_rewards_name_task_step_and_value(name: str, value: str) -> None:
    said = f"^task: odd_environments:{name}: reward {value} at env_step 3 of an episode; one finite"
    with pytest.raises(UserError, match=said):
        play(make(name, action_repeat=2))


def test_rewards_of_every_number_type() -> None:
    for value in (1, True, 1.0, np.float64(1), np.int8(1), np.ones((1, 1)), np.array(1)):
        assert as_reward(value) == 1.0
        assert type(as_reward(value)) is float


@pytest.mark.parametrize("name", ["end_text", "end_none", "end_two", "end_nan"])
def test_an_end_is_true_or_false(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: step.. gives .* as an end; True or False is"):
        play(make(name))
    assert not any(step.terminal for step in play(make("end_array")))


# --- Randomness ---------------------------------------------------------------------------------


def test_global_generators_are_seeded_with_each_episode() -> None:
    """Also in another process, and after something else was drawn."""
    code = (
        "import sys, hashlib, test_checked as t, numpy as np, torch, random\n"
        "env = t.make('Global')\n"
        "np.random.uniform(size=int(sys.argv[1])); random.random(); torch.rand(int(sys.argv[1]))\n"
        "played = [t.play(env, seed)[-1].image.tobytes() for seed in (5, 6)]\n"
        "assert played[0] != played[1]\n"
        "print(hashlib.sha256(b''.join(played)).hexdigest())"
    )
    first, second = python(code, 1), python(code, 7)
    assert first.stdout == second.stdout != "", first.stderr


def test_the_maker_of_an_environment_draws_by_the_run_s_seed() -> None:
    worlds = [make("Draws", seed=seed).simulator._env.world for seed in (3, 3, 4)]
    assert worlds[0] == worlds[1] != worlds[2]


def test_an_environment_that_ignores_its_seed_is_noticed(capsys) -> None:
    make("Unseeded")
    assert "one seed gives two different first pictures" in capsys.readouterr().err
    make("Slide")
    assert "warning" not in capsys.readouterr().err


# --- Interface ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("OldReset", r"reset\(\) takes no seed; Gymnasium's interface.*shimmy"),
        ("OldResult", r"reset\(\) gives uint8 \[64, 64, 3\]; Gymnasium's interface"),
        ("OldStep", r"step\(\) gives 4 values; Gymnasium's interface"),
        ("Lacking", "needs more than is installed: No module named 'no_such_package'"),
        ("Ending", r"step\(\) ends the process \(exit 3\)"),
        ("exits_at_import:make", "importing it fails: SystemExit: 1"),
        ("nothing", "makes NoneType, without reset, step, action_space"),
        ("failing", "cannot be made: RuntimeError: no display at all"),
        ("several", "makes 8 environments in one"),
    ],
)
def test_what_is_no_environment_of_gymnasium_s_interface_says_so(name: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^task: .*{name}.*{said}") as error:
        play(make(name))
    assert "\n" not in str(error.value)


def test_what_was_taken_is_said_once_for_all_processes(capsys, monkeypatch) -> None:
    for _ in range(2):
        make("Slide")
    assert capsys.readouterr().err.count("its pictures are") == 1
    code = "import test_checked as t; t.make('Slide')"
    done = python(code)
    assert done.returncode == 0 and "its pictures are" not in done.stderr, done.stderr


# --- Arguments ----------------------------------------------------------------------------------


def test_environments_are_made_with_arguments() -> None:
    environment = make("Slide", environment={"length": 4})
    assert len(play(environment)) == 5
    assert make_config(
        "tiny", {"task": "a:b", "environment": '{"b":  1, "a": [2]}'}
    ).environment == ('{"a":[2],"b":1}')
    with pytest.raises(ConfigError, match=r"^environment: .*unexpected keyword argument 'lenght'"):
        make("Slide", environment={"lenght": 4})
    for value in ("[1]", "frameskip", 3, {"a b": 1}):
        with pytest.raises(ConfigError, match=r"^environment: a mapping is expected"):
            make("Slide", environment=value)
    for task in ("toy_dot", "atari:pong"):
        with pytest.raises(ConfigError, match=r"^environment: only of gymnasium:NAME and module"):
            make_config("tiny", {"task": task, "environment": {"a": 1}})


# --- Gymnasium's registry -------------------------------------------------------------------------


def test_ale_s_own_environments_repeat_no_actions(capsys) -> None:
    pytest.importorskip("ale_py")
    environment = make("gymnasium:ALE/Pong-v5", action_repeat=4)
    assert "made with frameskip=1 instead of 4" in capsys.readouterr().err
    ale = environment.simulator._env.unwrapped.ale
    environment.reset(0)
    before = ale.getEpisodeFrameNumber()
    step = environment.step(np.eye(environment.action_space.size, dtype=np.float32)[0])
    assert ale.getEpisodeFrameNumber() - before == step.env_steps == 4


def test_a_frame_skip_that_was_asked_for_is_said(capsys) -> None:
    pytest.importorskip("ale_py")
    make("gymnasium:ALE/Pong-v5", environment={"frameskip": 3})
    assert "repeats each action 3 times itself" in capsys.readouterr().err


def test_names_that_an_import_registers_are_found() -> None:
    pytest.importorskip("ale_py")
    code = (
        "from dreamer.envs.tasks import make_simulator\n"
        "print(make_simulator('gymnasium:PongNoFrameskip-v4').action_space.size)"
    )
    done = python(code)
    assert done.stdout == "6\n", done.stderr


@pytest.mark.slow
def test_mujoco_below_gymnasium_has_a_renderer() -> None:
    pytest.importorskip("imageio")
    code = (
        "from dreamer.envs.tasks import make_simulator\n"
        "env = make_simulator('gymnasium:InvertedPendulum-v5')\n"
        "env.reset(0); print(env.image().std() > 0)"
    )
    hidden = ("MUJOCO_GL", "DISPLAY", "DREAMER_RENDERER", "PYOPENGL_PLATFORM")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = python(code, environment=environment)
    assert done.stdout == "True\n", done.stderr


def test_all_frames_since_the_last_are_one_picture() -> None:
    pytest.importorskip("pygame")
    arguments = {"render_mode": "rgb_array_list"}
    environment = make("gymnasium:CartPole-v1", environment=arguments)
    images = [step.image for step in play(environment, steps=3)]
    plain = [step.image for step in play(make("gymnasium:CartPole-v1"), steps=3)]
    np.testing.assert_array_equal(images, plain)


def test_what_gymnasium_cannot_make_is_one_line() -> None:
    pytest.importorskip("gymnasium")
    pytest.importorskip("pygame")
    for name in ("FooBar-v4", "CartPole-v77", "no_such_module:CartPole-v1", "Taxi-v3"):
        with pytest.raises(UserError, match=r"^task: "):
            make_simulator(f"gymnasium:{name}")
    with pytest.raises(ConfigError, match=r"^environment: .*unexpected keyword argument 'speed'"):
        make_simulator("gymnasium:CartPole-v1", arguments={"speed": 1})
