"""One run's settings: frozen, strict, with the paper's symbols.

`make_config("published", task="walker_walk", horizon=20)` starts from a preset and applies
overrides; the result is the whole truth about what a run computes. Symbols, in the order in
which they appear in shapes everywhere in this package:

    B  sequences in a batch      H  imagination horizon       D  deterministic state h_t
    L  steps in a sequence       A  action size               S  stochastic state s_t
    N  = B * L, the states that imagination starts from       E  image embedding
    R  action repeat

Counters carry their full names: `env_steps` are steps of the simulator, `agent_steps` are
decisions (env_steps / R), `updates` are gradient updates.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dreamer.errors import ConfigError, nearest, shorten
from dreamer.variants import CARDS

MAX_INT = 10**12  # of any setting; env_steps and sizes are far below
IMAGE_SHAPE = (64, 64, 3)  # height, width, colour; uint8


def setting(default: Any, about: str, *, choices: tuple = (), low: float = -math.inf,
            high: float = math.inf, outcome: bool = True, before: Any = None) -> Any:  # fmt: skip
    """A config field: default, meaning with unit and symbol, and its valid values.

    `outcome=False` marks settings that change how a run is computed but not what it computes: they
    are no part of its id. `before`: the value every run had before this setting existed. A run with
    that value keeps its id.
    """
    rules = dict(about=about, choices=choices, low=low, high=high, outcome=outcome, before=before)
    return dataclasses.field(default=default, metadata=rules)


@dataclass(frozen=True)
class Config:
    """Every setting of one run. Defaults: preset `published` (final paper, released code)."""

    # What is run.
    task: str = setting("cartpole_balance", "name in the table of tasks, see dreamer/envs/tasks.py")
    seed: int = setting(0, "of everything random in the run", low=0, high=2**31 - 1)
    preset: str = setting("published", "the preset these settings started from")
    behaviour: str = setting("dreamer", "how actions are chosen, see dreamer/variants.py")
    representation: str = setting(
        "reconstruction", "what the model learns its states from, see dreamer/variants.py"
    )
    env_steps: int = setting(5_000_000, "budget: how far the run goes", low=1, outcome=False)

    # Environment.
    action_repeat: int = setting(2, "R: simulator steps per decision", low=1)
    camera: int = setting(-1, "number of the control suite's camera; -1: the task's own", low=-1)
    time_limit_env_steps: int = setting(1000, "an episode is cut here; no terminal", low=1)
    shadow_size: int = setting(
        2048,
        "pixels along each side of the control suite's shadow map; fewer render faster on a CPU",
        low=16,
        high=8192,
        before=2048,
    )

    environment: str = setting(
        "",
        "arguments that a gymnasium: or own environment is made with, a mapping or JSON",
        before="",
    )
    observation: str = setting(
        "auto",
        "its picture: an entry of dict observations, or render; auto: observations that are "
        "images, else render",
        before="auto",
    )

    # Schedule (Algorithm 1).
    seed_episodes: int = setting(5, "episodes of random actions before the first update", low=1)
    seed_min_env_steps: int = setting(
        5000, "at least so many env_steps of random actions (at most the budget)", low=0, before=0
    )
    first_updates: int = setting(100, "updates right after the seed episodes", low=0)
    updates_per_1000_env_steps: int = setting(100, "updates for each 1000 env_steps since", low=0)
    collect: str = setting(
        "interleaved",
        "interleaved: play and evaluate between updates; parallel: during them, where training "
        "episodes are played by older weights",
        choices=("interleaved", "parallel"),
        before="interleaved",
    )
    environments: int = setting(
        1, "episodes played at once; if more than 1, each in its own process", low=1, before=1
    )
    eval_every_env_steps: int = setting(10_000, "env_steps between evaluations", low=1)
    eval_episodes: int = setting(1, "episodes per evaluation: mode action, no noise", low=1)
    checkpoint_every_env_steps: int = setting(
        10_000, "env_steps between checkpoints", low=1, outcome=False
    )
    keep_replay: str = setting(
        "until_done",
        "until_done: removed once the run has completed; always: it can be trained further",
        choices=("until_done", "always"),
        outcome=False,
    )
    log_every_updates: int = setting(
        100, "number of updates that each logged loss is averaged over", low=1, outcome=False
    )

    # Batches.
    batch_size: int = setting(50, "B: sequences per update", low=1)
    length: int = setting(50, "L: agent_steps per sequence", low=2)

    # World model.
    conv_depth: int = setting(32, "channels of the first convolution; then x2, x4, x8", low=1)
    deter_size: int = setting(200, "D: size of h_t", low=1)
    stoch_size: int = setting(30, "S: size of s_t", low=1)
    hidden_size: int = setting(200, "dense layers inside the RSSM", low=1)
    dense_units: int = setting(400, "units of every head's dense layers", low=1)
    reward_layers: int = setting(2, "hidden layers of the reward head", low=0)
    discount_layers: int = setting(3, "hidden layers of the discount head", low=0)
    value_layers: int = setting(3, "hidden layers of the value network", low=0)
    actor_layers: int = setting(4, "hidden layers of the actor", low=0)
    kl_scale: float = setting(1.0, "beta: scale of the KL loss", low=0)
    free_nats: float = setting(3.0, "free nats: the KL is not reduced below them", low=0)
    kl_clip: str = setting(
        "average",
        "what free_nats clips: the KL averaged over B and L, or each step's KL",
        choices=("average", "per_step"),
    )
    discount_head: bool = setting(False, "predict episode ends (tasks that can end early)")
    discount_scale: float = setting(10.0, "scale of the discount head's loss", low=0)
    probe_decoder: bool = setting(
        True,
        "train a decoder for videos where the representation has none; no gradient into the model",
    )

    # Behaviour.
    horizon: int = setting(15, "H: imagined steps", low=2)
    discount: float = setting(0.99, "gamma", low=0.001, high=1)
    return_lambda: float = setting(0.95, "lambda of the value estimates (Eq. 6)", low=0, high=1)
    value_target: str = setting(
        "online", "network that values imagined states", choices=("online", "slow")
    )
    slow_value_every_updates: int = setting(100, "updates between copies to the slow value", low=1)
    no_value_discount: float = setting(0.99, "gamma of `no_value`; 1 is Eq. 4", low=0, high=1)
    actor_init_std: float = setting(5.0, "std of a new actor's actions, before tanh", low=0.001)
    actor_gradient: str = setting(
        "half",
        "half: no gradient through actions that half precision rounds to 1 or -1 (released code)",
        choices=("half", "exact"),
        before="exact",
    )
    exploration_action: str = setting(
        "sample", "action that exploration noise is added to", choices=("mode", "sample")
    )
    exploration_noise: float = setting(0.3, "std of the noise added while collecting", low=0)
    planner_candidates: int = setting(1000, "`planet`: action sequences per iteration", low=1)
    planner_elites: int = setting(
        100, "`planet`: best sequences, to which mean and std are refitted", low=1
    )
    planner_iterations: int = setting(10, "`planet`: iterations per decision", low=1)
    planner_horizon: int = setting(12, "`planet`: planning horizon, in agent_steps", low=1)

    # Discrete actions and rewards of unknown scale (final paper, appendix C).
    reward_transform: str = setting(
        "none", "applied to rewards that the model learns", choices=("none", "tanh")
    )
    epsilon_start: float = setting(0.4, "share of random discrete actions at first", low=0, high=1)
    epsilon_end: float = setting(0.1, "share of random discrete actions at the end", low=0, high=1)
    epsilon_env_steps: int = setting(200_000, "env_steps from epsilon_start to epsilon_end", low=1)

    # Optimisation.
    model_learning_rate: float = setting(6e-4, "Adam, world model", low=0)
    value_learning_rate: float = setting(8e-5, "Adam, value network", low=0)
    actor_learning_rate: float = setting(8e-5, "Adam, actor", low=0)
    adam_epsilon: float = setting(
        1e-7, "Adam's epsilon (released code; its forerunner had 1e-4)", low=0
    )
    gradient_clip_norm: float = setting(100.0, "global norm, per optimiser", low=0)

    # Machine.
    device: str = setting(
        "auto", "auto: cuda if there", choices=("auto", "cpu", "cuda"), outcome=False
    )
    precision: str = setting(
        "fp32", "of matrix products and convolutions", choices=("fp32", "tf32", "bf16")
    )
    cuda_graph: str = setting(
        "auto",
        "auto: on a GPU, updates are replayed as one graph; off: launched one by one, to debug",
        choices=("auto", "off"),
        outcome=False,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        check_together(vars(self))

    @property
    def environment_arguments(self) -> dict[str, Any]:
        """The arguments in the setting `environment`, as a dict."""
        return json.loads(self.environment or "{}")

    @property
    def embed_size(self) -> int:
        """E: size of the image embedding, 1024 at conv_depth 32."""
        return 32 * self.conv_depth

    @property
    def feature_size(self) -> int:
        """D + S: what every head sees of a state."""
        return self.deter_size + self.stoch_size


# Settings that came after the first runs: what runs did before.
BEFORE: dict[str, Any] = {
    field.name: field.metadata["before"]
    for field in dataclasses.fields(Config)
    if field.metadata["before"] is not None
}

# What differs from the defaults above. `submission`: the paper as first submitted. `small`: the
# same algorithm sized for laptops: narrow networks, small batches, three updates for each of the
# paper's. `tiny`: for toy environments and tests.
PRESETS: dict[str, dict[str, Any]] = {
    "published": {},
    "submission": dict(
        env_steps=2_000_000,
        dense_units=300,
        reward_layers=3,
        value_layers=3,
        actor_layers=3,
        model_learning_rate=1e-3,
        value_learning_rate=3e-4,
        actor_learning_rate=3e-4,
        horizon=20,
        value_target="slow",
        actor_gradient="exact",
        exploration_action="mode",
        no_value_discount=1.0,
        adam_epsilon=1e-4,
    ),
    "small": dict(
        env_steps=100_000,
        batch_size=8,
        length=20,
        updates_per_1000_env_steps=300,  # narrow networks need updates more than frames in each
        conv_depth=8,
        deter_size=128,
        stoch_size=20,
        hidden_size=128,
        dense_units=100,
        model_learning_rate=1.5e-3,
        value_learning_rate=2e-4,
        # As far in an env_step as the paper's, which has a third of the updates: a faster actor
        # settles on one action before the model has seen what others do.
        actor_learning_rate=3e-5,
        shadow_size=512,  # half the time of a frame; at most 0.2 % of the pixels differ visibly
        free_nats=1.0,  # the KL of so small a model stays below 3, which would leave no KL loss
    ),
    "tiny": dict(
        env_steps=12_000,
        time_limit_env_steps=50,
        seed_min_env_steps=0,  # a toy's seed episodes are full ones
        batch_size=10,
        length=10,
        horizon=8,
        discount=0.95,
        actor_init_std=1.0,
        updates_per_1000_env_steps=250,
        conv_depth=8,
        deter_size=64,
        stoch_size=16,
        hidden_size=100,
        dense_units=100,
        reward_layers=2,
        value_layers=2,
        actor_layers=2,
        discount_layers=2,
        model_learning_rate=1e-3,
        value_learning_rate=5e-4,
        actor_learning_rate=5e-4,
        eval_every_env_steps=1000,
        eval_episodes=5,
        checkpoint_every_env_steps=1000,
        planner_candidates=100,
        planner_elites=10,
        planner_iterations=5,
        planner_horizon=8,
    ),
}


def make_config(preset: str = "published", overrides: Mapping[str, Any] | None = None) -> Config:
    """The preset with overrides applied.

    Raises ConfigError for an unknown preset or key (naming the nearest) and for values of the
    wrong type or out of range. A whole number may be given as a float (2e6).
    """
    values = {**PRESETS[check_setting("preset", preset)], **(overrides or {}), "preset": preset}
    return Config(**{key: check_setting(key, value) for key, value in values.items()})


def check_setting(key: str, value: Any) -> Any:
    """The value as the setting's type, checked by itself; raises ConfigError."""
    field = Config.__dataclass_fields__.get(key)
    if field is None:
        raise ConfigError(str(key), f"no such setting; {nearest(key, Config.__dataclass_fields__)}")
    value = _coerce(field, value)
    _check(field, value)
    return value


def check_together(values: Mapping[str, Any]) -> None:
    """What settings demand of one another, given all of them; raises ConfigError."""
    own_maker = ":" in values["task"] and not values["task"].startswith(("atari:", "dmlab:"))
    for key in ("environment", "observation"):
        if values[key] != BEFORE[key] and not own_maker:
            raise ConfigError(
                key, f"only of gymnasium:NAME and module:function, not {values['task']}"
            )
    if values["planner_elites"] > values["planner_candidates"]:
        raise ConfigError(
            "planner_elites", f"at most planner_candidates ({values['planner_candidates']})"
        )
    agent_steps = values["time_limit_env_steps"] // values["action_repeat"]
    if agent_steps + 1 < values["length"]:
        raise ConfigError(
            "length",
            f"{values['length']} agent_steps do not fit into an episode of "
            f"{values['time_limit_env_steps']} env_steps at action_repeat "
            f"{values['action_repeat']}",
        )


def config_dict(config: Config) -> dict[str, Any]:
    """All settings as plain JSON values."""
    return dataclasses.asdict(config)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """The inverse of `config_dict`, also of one that is older than some settings; raises
    ConfigError like `make_config`."""
    overrides = {k: v for k, v in (BEFORE | dict(values)).items() if k != "preset"}
    return make_config(str(values.get("preset")), overrides)


def outcome_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a config's values, those that decide a run's outcome: what its identity is made of.

    The budget is not among them: a run that goes further is the same run. It counts only where it
    ends the random actions early.
    """
    fields = Config.__dataclass_fields__
    found = {name: values[name] for name in fields if fields[name].metadata["outcome"]}
    found["seed_min_env_steps"] = min(values["seed_min_env_steps"], values["env_steps"])
    return found


def _coerce(field: dataclasses.Field, value: Any) -> Any:
    """Whole floats to int and ints to float, where the field asks for it; -0.0 is 0.0. Arguments of
    the environment to JSON, the same text for the same arguments."""
    if field.name == "environment":
        return _arguments(value)
    if field.type == "int" and type(value) is float and value.is_integer():
        return int(value)
    if field.type == "float" and type(value) in (int, float) and abs(value) <= 2**53:
        return float(value) + 0.0
    return value


def _arguments(value: Any) -> Any:
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not value and value in ("", {}):
        return ""
    if not isinstance(value, Mapping) or not all(str(key).isidentifier() for key in value):
        raise ConfigError("environment", 'a mapping is expected, as text in JSON: {"frameskip": 1}')
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError("environment", str(error)) from None


def _check(field: dataclasses.Field, value: Any) -> None:
    kinds = {"int": int, "float": float, "str": str, "bool": bool}
    rules = field.metadata
    shown = shorten(repr(value))
    if type(value) is not kinds[str(field.type)]:
        raise ConfigError(field.name, f"{shown} is not of type {field.type} ({rules['about']})")
    if field.name in CARDS:
        CARDS[field.name](str(value))
    if field.name == "preset" and value not in PRESETS:
        raise ConfigError("preset", f"no preset {shown}; {nearest(value, PRESETS)}")
    if rules["choices"] and value not in rules["choices"]:
        raise ConfigError(field.name, f"no {shown}; {nearest(value, rules['choices'])}")
    if isinstance(value, (int, float)) and not rules["low"] <= value <= rules["high"]:
        raise ConfigError(field.name, f"{shown} is not in [{rules['low']:g}, {rules['high']:g}]")
    if type(value) is int and abs(value) > MAX_INT:
        raise ConfigError(field.name, f"{shown} is too large; at most {MAX_INT:g} is")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(field.name, f"{shown} is not a finite number")
