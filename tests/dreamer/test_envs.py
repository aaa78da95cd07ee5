"""One contract for all environments, and what each of them promises beyond it."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import python

from dreamer.config import IMAGE_SHAPE, make_config
from dreamer.envs import rendering
from dreamer.envs.control_suite import CONTROL_TASKS, ControlSimulator
from dreamer.envs.environment import Environment, Step, make_environment
from dreamer.envs.simulators import ActionSpace, Outcome, Simulator
from dreamer.envs.tasks import TASKS, make_simulator
from dreamer.envs.toys import WIDTH, Probe, ToyDot, ToyEnd, ToyFar
from dreamer.errors import ConfigError, UserError

LIMIT = 7  # env_steps: ends inside a repeat of 2 and of 4
TOYS = ("toy_dot", "toy_home", "toy_discrete", "toy_far", "toy_end")


ADAPTED = [
    "atari:pong",
    "atari:breakout",
    "dmlab:rooms_watermaze",
    "gymnasium:CarRacing-v3",  # observes images
    "gymnasium:MountainCar-v0",  # must be rendered
    "gymnasium_like:make",  # a module:function of one's own
]
NEEDS = {
    "atari:pong": "ale_py",
    "atari:breakout": "ale_py",
    "gymnasium:CarRacing-v3": "Box2D",
    "gymnasium:MountainCar-v0": "pygame",
}


@pytest.fixture(scope="module", params=[*TASKS, *ADAPTED])
def task(request) -> str:
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return request.param


@pytest.fixture(scope="module")
def simulator(task: str):
    simulator = make_simulator(task)
    yield simulator
    simulator.close()


def random_actions(space: ActionSpace, count: int) -> np.ndarray:
    """[count, A], the same in every call."""
    random = np.random.default_rng(12)
    if space.discrete:
        return np.eye(space.size, dtype=np.float32)[random.integers(space.size, size=count)]
    return random.uniform(-1, 1, (count, space.size)).astype(np.float32)


def random_action(random: np.random.Generator, size: int, discrete: bool) -> np.ndarray:
    if discrete:
        return np.eye(size, dtype=np.float32)[random.integers(size)]
    return random.uniform(-1, 1, size).astype(np.float32)


def play(environment: Environment, seed: int, actions: np.ndarray) -> list[Step]:
    steps = [environment.reset(seed)]
    for action in actions:
        if steps[-1].terminal or steps[-1].truncated:
            break
        steps.append(environment.step(action))
    return steps


def assert_same(steps: list[Step], others: list[Step]) -> None:
    """Bit for bit."""
    assert len(steps) == len(others)
    for one, other in zip(steps, others, strict=True):
        assert one[1:] == other[1:]
        np.testing.assert_array_equal(one.image, other.image)


@pytest.mark.parametrize("action_repeat", [1, 2, 4])
def test_contract(simulator: Simulator, action_repeat: int) -> None:
    environment = Environment(simulator, action_repeat, LIMIT)
    space = environment.action_space
    assert type(space) is ActionSpace and type(space.size) is int and type(space.discrete) is bool
    actions = random_actions(space, LIMIT)
    steps = play(environment, 3, actions)
    first_pictures = [step.image.copy() for step in steps]

    for step in steps:
        assert type(step) is Step
        assert step.image.shape == IMAGE_SHAPE and step.image.dtype == np.uint8
        assert type(step.reward) is float and np.isfinite(step.reward)
        assert type(step.terminal) is bool and type(step.truncated) is bool
        assert type(step.env_steps) is int
    assert steps[0][1:] == (0.0, False, False, 0)

    # Time: each decision is R env_steps, the last one what is left; the limit is no terminal.
    *before, last = steps[1:]
    assert [step.env_steps for step in before] == [action_repeat] * len(before)
    assert not any(step.terminal or step.truncated for step in before)
    assert sum(step.env_steps for step in steps) == LIMIT
    assert (last.terminal, last.truncated) == (False, True)
    with pytest.raises(RuntimeError, match="reset"):
        environment.step(actions[0])

    # Pictures: of something, that moves, each in memory of its own.
    assert all(step.image.std() > 0 for step in steps[1:])
    assert any(np.any(step.image != steps[0].image) for step in steps[1:])

    # The seed and the actions decide everything, whatever was played in between.
    others = play(environment, 4, actions)
    assert any(
        one.reward != other.reward or np.any(one.image != other.image)
        for one, other in zip(steps, others, strict=True)
    )
    assert_same(play(environment, 3, actions), steps)
    for step, picture in zip(steps, first_pictures, strict=True):
        np.testing.assert_array_equal(step.image, picture)

    for wrong in (np.zeros(space.size + 1), np.full(space.size, 1.5), np.full(space.size, np.nan)):
        environment.reset(0)
        with pytest.raises(ValueError, match="an action"):
            environment.step(wrong.astype(np.float32))


def test_a_repeat_is_the_sum_of_its_env_steps(simulator: Simulator) -> None:
    actions = random_actions(simulator.action_space, 3)
    singly = play(Environment(simulator, 1, 1000), 5, actions.repeat(4, axis=0))[1:]
    together = play(Environment(simulator, 4, 1000), 5, actions)[1:]
    for index, step in enumerate(together):
        parts = singly[4 * index : 4 * index + 4]
        assert step.reward == sum(part.reward for part in parts)
        np.testing.assert_array_equal(step.image, parts[-1].image)


def test_a_new_instance_plays_the_same_episode(task: str, simulator: Simulator) -> None:
    actions = random_actions(simulator.action_space, 3)
    play(Environment(simulator, 2, 100), 8, actions)
    fresh = make_environment(make_config("tiny", {"task": task}))
    steps = play(fresh, 9, actions)
    fresh.close()
    assert_same(play(Environment(simulator, 2, 100), 9, actions), steps)


def test_a_new_process_plays_the_same_episode() -> None:
    code = (
        "import hashlib, numpy\n"
        "from dreamer.config import make_config\n"
        "from dreamer.envs.environment import make_environment\n"
        "environment = make_environment(make_config('tiny', {'task': 'cheetah_run'}))\n"
        "environment.reset(2**62)\n"
        "steps = [environment.step(numpy.full(6, 0.1, numpy.float32)) for _ in range(5)]\n"
        "print(hashlib.sha256(b''.join(step.image.tobytes() for step in steps)).hexdigest())"
    )
    first, second = (python(code) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    environment = make_environment(make_config("tiny", {"task": "cheetah_run"}))
    steps = play(environment, 2**62, np.full((5, 6), 0.1, np.float32))[1:]
    environment.close()
    here = hashlib.sha256(b"".join(step.image.tobytes() for step in steps)).hexdigest()
    assert first.stdout.strip() == here


# --- How episodes end ---------------------------------------------------------------------------


class Ending:
    """A simulator that ends by itself after a number of env_steps, or is cut there."""

    action_space = ActionSpace(3, discrete=True)

    def __init__(self, after_env_steps: int, cut: bool = False):
        self._after, self._cut = after_env_steps, cut

    def reset(self, seed: int) -> None:
        self._count = 0

    def advance(self, action: np.ndarray) -> Outcome:
        self._count += 1
        over = self._count == self._after
        return Outcome(1.0, terminal=over and not self._cut, truncated=over and self._cut)

    def image(self) -> np.ndarray:
        return np.full(IMAGE_SHAPE, self._count, np.uint8)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("after", "cut", "limit", "terminal", "lengths"),
    [
        (5, False, 100, True, [4, 1]),  # ends inside a repeat
        (8, False, 100, True, [4, 4]),  # ends with one
        (5, True, 100, False, [4, 1]),  # cut by the simulator itself
        (50, False, 6, False, [4, 2]),  # cut by our limit
        (6, False, 6, True, [4, 2]),  # ends in the very last env_step: it has ended
    ],
)
def test_terminal_and_truncated(after, cut, limit, terminal, lengths) -> None:
    environment = Environment(Ending(after, cut), 4, limit)
    steps = play(environment, 0, random_actions(environment.action_space, 10))[1:]
    assert [step.env_steps for step in steps] == lengths
    assert [step.reward for step in steps] == lengths  # 1 for each env_step
    assert (steps[-1].terminal, steps[-1].truncated) == (terminal, not terminal)


def test_discrete_actions_are_one_hot() -> None:
    environment = Environment(Ending(5), 1, 100)
    environment.reset(0)
    environment.step(np.array([0, 1, 0], np.float32))
    for wrong in ([0, 0, 0], [1, 1, 0], [0.5, 0.5, 0], [0, 0, 2]):
        with pytest.raises(ValueError, match="one-hot"):
            environment.step(np.array(wrong, np.float32))


def test_time_limit_is_counted_in_env_steps() -> None:
    config = make_config("small", {"task": "toy_dot", "action_repeat": 3})
    environment = make_environment(config)
    steps = play(environment, 0, np.zeros((1000, 2), np.float32))[1:]
    assert len(steps) == 334 and steps[-1].env_steps == 1
    assert sum(step.env_steps for step in steps) == config.time_limit_env_steps == 1000


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cartpole_balance'") as error:
        make_environment(make_config("tiny", {"task": "cartpole_balence"}))
    assert error.value.key == "task"


# --- The control suite --------------------------------------------------------------------------


def test_the_papers_tasks_are_all_there() -> None:
    assert len(CONTROL_TASKS) == 20


def test_the_suites_own_limit_is_off() -> None:
    simulator = make_simulator("pendulum_swingup")
    simulator.reset(0)
    outcomes = [simulator.advance(np.zeros(1, np.float32)) for _ in range(1002)]
    assert not any(outcome.terminal or outcome.truncated for outcome in outcomes)


def test_actions_reach_the_tasks_bounds() -> None:
    from dm_control import suite

    simulator = make_simulator("quadruped_walk")
    spec = suite.load("quadruped", "walk").action_spec()
    assert spec.maximum.max() > 1  # otherwise this test shows nothing
    ones = np.ones(simulator.action_space.size, np.float32)
    np.testing.assert_array_equal(simulator.scaled(ones), spec.maximum)
    np.testing.assert_array_equal(simulator.scaled(-ones), spec.minimum)
    middle = (spec.maximum + spec.minimum) / 2
    np.testing.assert_allclose(simulator.scaled(0 * ones), middle, atol=1e-12)
    quarter = spec.minimum + (spec.maximum - spec.minimum) / 4
    np.testing.assert_allclose(simulator.scaled(-ones / 2), quarter, atol=1e-12)


@pytest.mark.parametrize(
    ("domain", "task", "camera"),
    [
        ("cartpole", "balance", 0),
        ("ball_in_cup", "catch", 0),
        ("walker", "walk", 0),
        ("quadruped", "walk", 2),
        ("quadruped", "walk", 0),  # 0 is a choice, not a missing value
    ],
)
def test_pictures_are_the_suites_own_at_64x64(domain: str, task: str, camera: int) -> None:
    from dm_control import suite

    env = suite.load(domain, task)
    env.task.random.seed(np.random.SeedSequence(5).generate_state(4))
    env.reset()
    simulator = ControlSimulator(domain, task, camera)
    simulator.reset(5)
    image = simulator.image()
    np.testing.assert_array_equal(image, env.physics.render(64, 64, camera_id=camera))
    simulator.close()
    env.close()


def test_the_quadruped_is_seen_by_camera_2() -> None:
    images = []
    for simulator in (
        make_simulator("quadruped_walk"),
        ControlSimulator("quadruped", "walk", camera=2),
    ):
        simulator.reset(5)
        images.append(simulator.image())
        simulator.close()
    np.testing.assert_array_equal(*images)


def test_a_smaller_shadow_map_changes_the_edges_of_shadows_and_nothing_else() -> None:
    pictures = []
    for shadow_size in (2048, 512):
        config = make_config(
            "published", {"task": "walker_walk", "shadow_size": shadow_size, "camera": 0}
        )
        env = make_environment(config)
        seen = [env.reset(3).image]
        seen += [env.step(np.full(6, 0.5, np.float32)).image for _ in range(10)]
        pictures.append(np.array(seen, int))
        env.close()
    changed = np.abs(pictures[0] - pictures[1]).max(-1) > 5
    assert 0 < changed.mean() < 0.01


# --- Ours ---------------------------------------------------------------------------------------


def toy_return(task: str, policy, seed: int, action_repeat: int = 2) -> float:
    simulator = make_simulator(task)
    environment = Environment(simulator, action_repeat, 100)
    step, total = environment.reset(seed), 0.0
    while not (step.terminal or step.truncated):
        step = environment.step(policy(simulator))
        total += step.reward
    return total


@pytest.mark.parametrize("action_repeat", [1, 2, 4])
@pytest.mark.parametrize("task", TOYS)
def test_no_random_policy_beats_a_toys_optimal_one(task: str, action_repeat: int) -> None:
    random = np.random.default_rng(0)

    def wander(simulator):
        return random_action(random, *simulator.action_space)

    def nearly(simulator):
        if simulator.action_space.discrete:
            return (
                simulator.optimal_action(action_repeat)
                if random.random() < 0.8
                else wander(simulator)
            )
        way = simulator.optimal_action(action_repeat)
        return np.clip(way + random.normal(0, 0.2, len(way)), -1, 1).astype(np.float32)

    for seed in range(10):
        best, random_return, near = (
            toy_return(task, policy, seed, action_repeat)
            for policy in (lambda toy: toy.optimal_action(action_repeat), wander, nearly)
        )
        assert 80 < best <= 100
        assert random_return < best and near < 1.01 * best


def always(value: float):
    return lambda toy: np.array([value], np.float32)


def test_the_light_is_worth_the_climb_but_at_first_going_down_pays() -> None:
    toy = ToyFar()
    for seed in range(10):
        up, down = (toy_return("toy_far", always(speed), seed) for speed in (1, -1))
        assert up > 75 > 15 > down > 0
        toy.reset(seed)
        for speed in (1, -1):  # three env_steps, which a horizon of three sees
            toy._x = 0.4 if speed > 0 else 0.6
            gains = [toy.advance(np.array([speed], np.float32)).reward for _ in range(3)]
            assert all(speed * gain < -0.17 for gain in gains)


def test_over_the_edge_the_prize_is_paid_once() -> None:
    toy = ToyEnd()
    for seed in range(10):
        best = toy_return("toy_end", lambda toy: toy.optimal_action(2), seed)
        assert toy_return("toy_end", always(1), seed) < 0.2 * best
    toy._x = toy.EDGE - 0.01
    assert toy.advance(np.zeros(1, np.float32)) == (1.0, False, False)
    assert toy.advance(np.ones(1, np.float32)) == (toy.PRIZE, True, False)


def test_toy_pictures_show_where_dot_and_target_are() -> None:
    """Red is brightest where the dot is, green where the target is; small moves can be seen."""
    toy = ToyDot()
    for seed in range(20):
        toy.reset(seed)
        image = toy.image()
        for position, channel in ((toy._position, 0), (toy._target, 1)):
            row, column = np.unravel_index(np.argmax(image[..., channel]), (64, 64))
            expected = WIDTH + position * (64 - 2 * WIDTH)
            np.testing.assert_allclose([column, row], expected, atol=1)
        toy.advance(np.array([0.1, 0], np.float32))  # a third of a pixel
        assert np.any(toy.image() != image)


def test_toy_moves_where_it_is_told_and_rewards_each_step_closer() -> None:
    toy = ToyDot()
    for seed in range(20):
        toy.reset(seed)
        still = toy.advance(np.zeros(2, np.float32)).reward
        while np.abs(toy._position - toy._target).max() > 1e-6:
            closer = toy.advance(toy.optimal_action()).reward
            assert still < closer <= 1
            still = closer
        away = toy.advance(np.array([1, 0], np.float32) * (1 if toy._target[0] < 0.5 else -1))
        assert 0 <= away.reward < still
    toy.reset(0)
    crossing = 0
    toy._position = np.array([0.0, 0.5])
    while toy._position[0] < 1:
        toy.advance(np.array([1, 0], np.float32))
        crossing += 1
    assert crossing == 17 and toy._position[1] == 0.5


def test_probe_writes_what_happened_into_its_pictures() -> None:
    settings = {"task": "probe", "time_limit_env_steps": 100}
    environment = make_environment(make_config("tiny", settings))
    seed = 2**63 - 1
    actions = random_actions(environment.action_space, 50)
    steps = play(environment, seed, actions)
    assert Probe.read(steps[0].image)[:2] == (seed, 0)
    np.testing.assert_array_equal(Probe.read(steps[0].image)[2], 0)
    for index, (step, action) in enumerate(zip(steps[1:], actions, strict=True)):
        seen_seed, count, seen_action = Probe.read(step.image)
        assert (seen_seed, count) == (seed, 2 * (index + 1))
        np.testing.assert_array_equal(seen_action, action)
        assert np.float32(step.reward) == step.reward == ((count - 1) + count) / 1024


# --- Renderer, with the real processes ------------------------------------------------------------


def bare_environment(**extra: str) -> dict[str, str]:
    """Forgets what this process has found out about renderers."""
    chosen = ("MUJOCO_GL", "DREAMER_RENDERER", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID")
    return {k: v for k, v in os.environ.items() if k not in chosen} | extra


CHOOSE = """
from dreamer.errors import UserError
from dreamer.envs.rendering import choose_renderer, renderer_name
try:
    print(choose_renderer())
    print(renderer_name())
except UserError as error:
    print("UserError:", error)
"""


def program(folder: Path, code: str) -> Path:
    """A stand-in for the program that draws the first frame."""
    path = folder / "first_frame.py"
    path.write_text(code)
    return path


def test_mujoco_gl_is_respected() -> None:
    done = python(CHOOSE, environment=bare_environment(MUJOCO_GL="osmesa"))
    chosen, name = done.stdout.splitlines()
    assert chosen == "osmesa" and name.startswith("osmesa ") and len(name) > len("osmesa ")
    assert done.stderr == ""


def test_without_egl_osmesa_draws_with_one_line_of_warning() -> None:
    done = python(CHOOSE, environment=bare_environment(MUJOCO_EGL_DEVICE_ID="99"))
    assert done.stdout.splitlines()[0] == "osmesa"
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("warning: ")
    assert "MUJOCO_EGL_DEVICE_ID" in done.stderr  # says why


def test_a_gpu_that_egl_numbers_differently_is_drawn_on_any_other() -> None:
    """Workers are given one number for CUDA and EGL."""
    given = dict(MUJOCO_EGL_DEVICE_ID="99", DREAMER_EGL_DEVICE="99")
    done = python(CHOOSE, environment=bare_environment(**given))
    if done.stdout.splitlines()[0] == "osmesa":
        pytest.skip("no EGL here")
    assert done.stdout.splitlines()[0] == "egl"
    assert done.stderr.count("\n") == 1 and "MUJOCO_EGL_DEVICE_ID=99" in done.stderr


def test_a_renderer_that_does_not_exist() -> None:
    done = python(CHOOSE, environment=bare_environment(MUJOCO_GL="osmessa"))
    assert done.stdout.startswith("UserError: MUJOCO_GL=osmessa") and "'osmesa'" in done.stdout


def test_a_renderer_that_fails_says_why_and_what_to_do() -> None:
    done = python(CHOOSE, environment=bare_environment(MUJOCO_GL="egl", MUJOCO_EGL_DEVICE_ID="99"))
    assert done.stdout.startswith("UserError: MUJOCO_GL=egl")
    assert "MUJOCO_EGL_DEVICE_ID" in done.stdout and "apt-get install" in done.stdout


@pytest.mark.parametrize("asked", ["", "osmesa"])
def test_a_first_frame_that_never_comes(asked: str, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MUJOCO_GL", asked)
    monkeypatch.delenv("DREAMER_RENDERER", raising=False)
    monkeypatch.setattr(rendering, "FIRST_FRAME", program(tmp_path, "import time; time.sleep(600)"))
    monkeypatch.setattr(rendering, "FIRST_FRAME_TIMEOUT_S", 0.3)
    with pytest.raises(UserError, match=r"no first frame within 0\.3 s.*apt-get install"):
        rendering.choose_renderer()
    assert rendering.renderer_name() == ""


def test_the_renderer_is_chosen_once_for_a_process_and_its_children(monkeypatch, tmp_path) -> None:
    chosen = rendering.choose_renderer()
    again = program(tmp_path, "raise SystemExit('tried again')")
    monkeypatch.setattr(rendering, "FIRST_FRAME", again)
    assert rendering.choose_renderer() == chosen
    done = python(f"import dreamer.envs.rendering as r; r.FIRST_FRAME = {str(again)!r}{CHOOSE}")
    assert done.stdout.splitlines() == [chosen, rendering.renderer_name()], done.stderr


GUARD = """
import time, dreamer.envs.rendering as rendering
rendering.FIRST_FRAME_TIMEOUT_S = 0.5
with rendering.first_frame_or_end():
    print("my turn", flush=True)
    time.sleep({seconds})
print("went on")
"""


def test_a_process_that_hangs_at_its_own_first_frame_says_so_and_ends(tmp_path) -> None:
    done = python(GUARD.format(seconds=600), environment=bare_environment(TMPDIR=str(tmp_path)))
    assert done.returncode == 1 and done.stdout == "my turn\n"
    assert "Timeout" in done.stderr and 'File "<string>", line 6' in done.stderr


def test_first_frames_take_turns_but_wait_for_nobody_for_ever(tmp_path) -> None:
    with open(tmp_path / f"dreamer-first-frame-{os.getuid()}.lock", "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        done = python(GUARD.format(seconds=0), environment=bare_environment(TMPDIR=str(tmp_path)))
    assert done.stdout == "my turn\nwent on\n", done.stderr
    assert done.returncode == 0


def test_the_lock_of_first_frames_is_not_opened_through_a_link(tmp_path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    (tmp_path / f"dreamer-first-frame-{os.getuid()}.lock").symlink_to(precious)
    done = python(GUARD.format(seconds=0), environment=bare_environment(TMPDIR=str(tmp_path)))
    assert done.stdout == "my turn\nwent on\n", done.stderr
    assert precious.read_text() == "as it was"
