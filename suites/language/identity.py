"""What makes a run the same run everywhere: its id, and the settings that the id stands for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from dreamer.config import BEFORE, PRESETS, Config, check_setting, outcome_values

SETTINGS = tuple(sorted(Config.__dataclass_fields__))
HASH_DIGITS = 10


def run_id(config: Mapping[str, Any]) -> str:
    """A readable prefix and a hash of the settings that change the outcome.

    A setting with its `before` value (that of runs made before the setting existed) is left out, so
    older runs keep their ids. Ids used to contain the budget: the preset's budget still stands in
    its place, so runs with that budget keep their ids, too.
    """
    budget = preset_settings(config["preset"])["env_steps"]
    return _id(config, outcome_values(config) | {"env_steps": budget})


def earlier_run_id(config: Mapping[str, Any]) -> str:
    """The id that the run had when its budget was part of it."""
    return _id(config, {k: config[k] for k in (*outcome_values(config), "env_steps")})


def recorded_ids(
    configs: Mapping[str, Mapping[str, Any]],
    present: Iterable[str],
    config_of: Callable[[str], Mapping[str, Any] | None],
) -> dict[str, str]:
    """{run id: the id that its records have}, for runs that earlier code recorded under another id.

    `configs`: the settings of runs by id. `present`: the ids that have records; `config_of` gives
    their settings, or None if they cannot be read. Of several such records the one with the same
    budget is taken, else the one with the largest.
    """
    there = set(present)
    earlier = {run_id: earlier_run_id(config) for run_id, config in configs.items()}
    found = {new: old for new, old in earlier.items() if old != new and old in there}
    missing = {new for new in configs if new not in there and new not in found}
    prefixes = {_prefix(run_id) for run_id in missing}
    budgets: dict[str, int] = {}
    for old in sorted(there):
        if _prefix(old) not in prefixes:
            continue
        config = BEFORE | dict(config_of(old) or {})
        try:
            new = run_id(config)
        except (KeyError, TypeError):  # not all of its settings are recorded
            continue
        if new in missing and config["env_steps"] > budgets.get(new, 0):
            found[new], budgets[new] = old, config["env_steps"]
    return found


def _id(config: Mapping[str, Any], outcome: Mapping[str, Any]) -> str:
    kept = {k: outcome[k] for k in SETTINGS if k in outcome and outcome[k] != BEFORE.get(k)}
    digest = hashlib.sha256(_dumps(kept).encode()).hexdigest()[:HASH_DIGITS]
    names = [config[key] for key in ("task", "behaviour", "representation", "preset")]
    prefix = "-".join(re.sub(r"[^A-Za-z0-9_.]", "_", name) for name in names)
    return f"{prefix}-s{config['seed']}-{digest}"


def _prefix(run_id: str) -> str:
    return run_id.rpartition("-")[0]


def overrides_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from the run's preset, without task and seed."""
    preset = preset_settings(config["preset"])
    return {k: v for k, v in config.items() if v != preset[k] and k not in ("task", "seed")}


@cache
def preset_settings(preset: str) -> Mapping[str, Any]:
    """All settings of a preset, sorted by name."""
    defaults = {name: field.default for name, field in Config.__dataclass_fields__.items()}
    given = {k: check_setting(k, v) for k, v in PRESETS[preset].items()}
    values = {**defaults, **given, "preset": preset}
    return {name: values[name] for name in SETTINGS}


_dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
