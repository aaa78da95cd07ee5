"""What makes a run the same run everywhere: its id, and the settings that the id stands for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from dreamer.config import BEFORE, PRESETS, Config, check_setting

SETTINGS = tuple(sorted(Config.__dataclass_fields__))
HASH_DIGITS = 10


def run_id(config: Mapping[str, Any]) -> str:
    """A readable prefix and a hash of the settings that change the outcome.

    A setting with its `before` value (that of runs made before the setting existed) is left out, so
    that older runs keep their ids.
    """
    outcome = {k: config[k] for k in outcome_settings() if config[k] != BEFORE.get(k)}
    digest = hashlib.sha256(_dumps(outcome).encode()).hexdigest()[:HASH_DIGITS]
    names = [config[key] for key in ("task", "behaviour", "representation", "preset")]
    prefix = "-".join(re.sub(r"[^A-Za-z0-9_.]", "_", name) for name in names)
    return f"{prefix}-s{config['seed']}-{digest}"


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


@cache
def outcome_settings() -> tuple[str, ...]:
    """The settings that a run's id stands for."""
    fields = Config.__dataclass_fields__
    return tuple(name for name in SETTINGS if fields[name].metadata["outcome"])


_dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
