"""Labels of behaviours and representations: the only module of analysis that knows their names."""

from __future__ import annotations

from dreamer.config import Config

BEHAVIOURS = {"dreamer": "Dreamer", "no_value": "No value", "planet": "PlaNet"}
REPRESENTATIONS = {
    "reconstruction": "Reconstruction", "contrastive": "Contrastive", "reward": "Reward only",
}  # fmt: skip
DEFAULT_BEHAVIOUR = str(Config.__dataclass_fields__["behaviour"].default)
DEFAULT_REPRESENTATION = str(Config.__dataclass_fields__["representation"].default)


def pair_name(behaviour: str, representation: str) -> str:
    """The first word of a method's name: `dreamer/reconstruction`."""
    return f"{behaviour}/{representation}"


DREAMER = pair_name(DEFAULT_BEHAVIOUR, DEFAULT_REPRESENTATION)  # the paper's agent


def behaviour_label(behaviour: str) -> str:
    return BEHAVIOURS.get(behaviour, behaviour.replace("_", " ").capitalize())


def representation_label(representation: str) -> str:
    return REPRESENTATIONS.get(representation, representation.replace("_", " ").capitalize())


def pair_label(pair: str, *, only_representation: bool = False) -> str:
    """`planet/reward` -> `PlaNet, reward only`. The default of either part goes without saying.

    only_representation: figures that compare nothing else name the default representation, too.
    """
    behaviour, representation = pair.split("/")
    if only_representation:
        return representation_label(representation)
    if representation == DEFAULT_REPRESENTATION:
        return behaviour_label(behaviour)
    if behaviour == DEFAULT_BEHAVIOUR:
        return representation_label(representation)
    return f"{behaviour_label(behaviour)}, {representation_label(representation).lower()}"
