"""Labels of behaviours and representations, from their cards."""

from __future__ import annotations

from dreamer.config import Config
from dreamer.errors import ConfigError
from dreamer.variants import CARDS, behaviour_card

DEFAULTS = {name: field.default for name, field in Config.__dataclass_fields__.items()}
DEFAULT_BEHAVIOUR = str(DEFAULTS["behaviour"])
DEFAULT_REPRESENTATION = str(DEFAULTS["representation"])


def pair_name(behaviour: str, representation: str) -> str:
    """The first word of a method's name: `dreamer/reconstruction`."""
    return f"{behaviour}/{representation}"


DREAMER = pair_name(DEFAULT_BEHAVIOUR, DEFAULT_REPRESENTATION)  # the paper's agent


def plans(behaviour: str) -> bool:
    """Whether a behaviour plans; False for one that no longer exists."""
    try:
        return behaviour_card(behaviour).plans
    except ConfigError:
        return False


def label_of(key: str, name: str) -> str:
    """Of the card of a `behaviour` or `representation`; of its name where records outlived it."""
    try:
        return CARDS[key](name).label
    except ConfigError:
        return name.rpartition(":")[2].replace("_", " ").capitalize()


def pair_label(pair: str, *, only_representation: bool = False) -> str:
    """`planet/reward` -> `PlaNet, reward only`. The default of either part goes without saying.

    only_representation: figures that compare nothing else name the default representation, too.
    """
    behaviour, representation = pair.split("/")
    acts, sees = label_of("behaviour", behaviour), label_of("representation", representation)
    if only_representation:
        return sees
    if representation == DEFAULT_REPRESENTATION:
        return acts
    return sees if behaviour == DEFAULT_BEHAVIOUR else f"{acts}, {sees.lower()}"
