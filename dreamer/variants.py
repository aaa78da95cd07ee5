"""A card for each behaviour and representation: what other modules need to know about it.

A new variant is a module and a card. Cards load no PyTorch, so suites and figures can read them.
A variant outside this project needs no line here: a suite names its card as `module:NAME`, where
the module is found by Python (`PYTHONPATH`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dreamer.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class BehaviourCard:
    """A way to choose actions. Its class is a `Behaviour` (behaviour.py)."""

    label: str  # in figures and tables
    code: str  # `module:Class`
    plans: bool = False  # acting is as much work as learning
    # Every group of parameters that it learns -> the setting of its learning rate.
    learning_rates: Mapping[str, str] = field(default_factory=dict)
    acts_with: tuple[str, ...] = ()  # the groups that acting reads


@dataclass(frozen=True, kw_only=True)
class RepresentationCard:
    """What the world model learns its states from. Its class is a `Representation`
    (world_model.py)."""

    label: str
    code: str  # `module:Class`


BEHAVIOURS: dict[str, BehaviourCard] = {
    "dreamer": BehaviourCard(
        label="Dreamer",
        code="dreamer.behaviour:Dreamer",
        learning_rates={"actor": "actor_learning_rate", "value": "value_learning_rate"},
        acts_with=("actor",),
    ),
    "no_value": BehaviourCard(
        label="No value",
        code="dreamer.behaviour:NoValue",
        learning_rates={"actor": "actor_learning_rate"},
        acts_with=("actor",),
    ),
    "planet": BehaviourCard(label="PlaNet", code="dreamer.planner:Planet", plans=True),
}
REPRESENTATIONS: dict[str, RepresentationCard] = {
    "reconstruction": RepresentationCard(
        label="Reconstruction", code="dreamer.world_model:Reconstruction"
    ),
    "contrastive": RepresentationCard(label="Contrastive", code="dreamer.world_model:Contrastive"),
    "reward": RepresentationCard(label="Reward only", code="dreamer.world_model:RewardOnly"),
}


def behaviour_card(name: str) -> BehaviourCard:
    """The card of a behaviour, by name or as `module:NAME`; raises ConfigError."""
    return _card("behaviour", name, BEHAVIOURS, BehaviourCard)


def representation_card(name: str) -> RepresentationCard:
    """The card of a representation, by name or as `module:NAME`; raises ConfigError."""
    return _card("representation", name, REPRESENTATIONS, RepresentationCard)


def load_class(card: BehaviourCard | RepresentationCard) -> Any:
    """The class that a card names."""
    module, _, name = card.code.partition(":")
    return getattr(importlib.import_module(module), name)


# Setting -> the card of its value.
CARDS: dict[str, Callable[[str], BehaviourCard | RepresentationCard]] = {
    "behaviour": behaviour_card,
    "representation": representation_card,
}


def _card(key: str, name: str, cards: Mapping[str, Any], kind: type) -> Any:
    if name in cards:
        return cards[name]
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        known = [*cards, "module:NAME"]
        raise ConfigError(key, f"no {key} {name!r}; {nearest(name, known)}")
    try:
        card = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(key, f"{name}: {error}; is its folder in PYTHONPATH?") from None
    if not isinstance(card, kind):
        raise ConfigError(key, f"{name} is a {type(card).__name__}, not a {kind.__name__}")
    return card
