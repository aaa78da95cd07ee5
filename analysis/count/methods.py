"""What makes runs the same method, and the label, colour and marker of each method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import pandas as pd
import seaborn

from analysis.variants import DEFAULT_BEHAVIOUR, DREAMER, pair_label, pair_name


class Style(NamedTuple):
    label: str
    colour: str
    marker: str
    line: Any = "-"


# Safe for colour-blind readers; markers differ as well. In the order of the paper.
BLUE, ORANGE, GREEN, VERMILION, PINK, *_, SKY = seaborn.color_palette("colorblind").as_hex()
LOOKS = {
    "dreamer/reconstruction": (BLUE, "o"),
    "no_value/reconstruction": (ORANGE, "s"),
    "planet/reconstruction": (GREEN, "^"),
    "dreamer/contrastive": (PINK, "D"),
    "dreamer/reward": (VERMILION, "v"),
    "no_value/contrastive": ("#882255", "P"),
    "no_value/reward": ("#999933", "X"),
    "planet/contrastive": ("#44AA99", "<"),
    "planet/reward": (SKY, ">"),
}
STYLES = {pair: Style(pair_label(pair), *look) for pair, look in LOOKS.items()}
# Published methods are horizontal lines without markers, mostly grey, with different dashes.
PUBLISHED_STYLES: dict[str, Style] = {
    "d4pg": Style("D4PG", "#222222", "", (0, (5, 2))),
    "a3c": Style("A3C", "#8C8C8C", "", (0, (1, 1.2))),
    "slac": Style("SLAC", "#5D3A9B", "", (0, (5, 1.5, 1, 1.5))),
    "planet": Style("PlaNet (published)", GREEN, "", (0, (3, 1.5))),
    "dreamer": Style("Dreamer (released)", "#4B4B4B", "", (0, (4, 1.2))),
}
ACTION_REPEAT_STYLES = {
    "action_repeat=1": Style("R = 1", SKY, "<"),
    "action_repeat=2": Style("R = 2", BLUE, "o"),
    "action_repeat=4": Style("R = 4", "#882255", "P"),
}
SPARE = ("#332288", "#117733", "#AA4499", "#DDCC77", "#661100", "#6699CC")
SPARE_MARKERS = ("h", "*", "d", "p", "8", "X")

# Settings that never make another method: the axes of a grid, and those that only name or bound
# a run or set how often it is saved, evaluated and logged.
NO_METHOD = frozenset(
    {"task", "seed", "behaviour", "representation", "preset", "env_steps", "device",
     "checkpoint_every_env_steps", "eval_every_env_steps", "log_every_updates", "probe_decoder"}
)  # fmt: skip


def with_methods(runs: pd.DataFrame, axis: Sequence[str] = ()) -> tuple[pd.DataFrame, list[str]]:
    """`runs` with a column `method`, and notes on what was kept apart.

    A method is a pair of behaviour and representation. Runs of one task and pair that differ in
    another setting than those of `axis` (the x-axis of a figure) are different methods, and so are
    runs of different presets: they are never averaged together.
    """
    runs = runs.copy()
    pairs = [
        pair_name(*pair) for pair in zip(runs["behaviour"], runs["representation"], strict=True)
    ]
    groups: dict[tuple, list[int]] = defaultdict(list)
    presets: dict[tuple, set[str]] = defaultdict(set)
    for place, (task, pair, preset) in enumerate(
        zip(runs["task"], pairs, runs["preset"], strict=True)
    ):
        groups[task, pair, preset].append(place)
        presets[task, pair].add(preset)
    configs = list(runs["config"])
    varying: set[str] = set()
    for places in groups.values():
        varying |= _differing([configs[place] for place in places])
    varying -= NO_METHOD | set(axis)
    mixed = {key for key, found in presets.items() if len(found) > 1}
    names = []
    for pair, config, task, preset in zip(
        pairs, configs, runs["task"], runs["preset"], strict=True
    ):
        extra = [f"preset={preset}"] if (task, pair) in mixed else []
        extra += [f"{key}={config.get(key)}" for key in sorted(varying)]
        names.append(" ".join([pair, *extra]))
    runs["method"] = names
    if not mixed:
        return runs, []
    found = sorted({preset for key in mixed for preset in presets[key]})
    return runs, [f"presets {', '.join(found)} are mixed: drawn apart, not averaged"]


def _differing(configs: Sequence[Mapping[str, Any]]) -> set[str]:
    """Keys whose values are not the same in all configs."""
    first = configs[0]
    return {
        key
        for config in configs[1:]
        for key in set(first) | set(config)
        if first.get(key) != config.get(key)
    }


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """A style for each method. A pair has the same colour and marker in every figure.

    Of several methods of one pair (`dreamer/reconstruction horizon=10`) the first gets the colour
    of the pair and the others get spare colours; so do unknown pairs.
    """
    pairs = [pair_of(method) for method in methods]
    behaviours = {pair.split("/")[0] for pair in pairs}
    only_representation = len(set(pairs)) > 1 and behaviours == {DEFAULT_BEHAVIOUR}
    spare = cycle(zip(SPARE, SPARE_MARKERS, strict=True))
    taken: set[str] = set()
    found: dict[str, Style] = {}
    for method in sorted(methods, key=method_order):
        pair, _, extra = method.partition(" ")
        if pair == DREAMER and extra in ACTION_REPEAT_STYLES:
            found[method] = ACTION_REPEAT_STYLES[extra]
            continue
        known = pair in LOOKS and pair not in taken
        colour, marker = LOOKS[pair] if known else next(spare)
        taken.add(pair)
        label = pair_label(pair, only_representation=only_representation)
        words = f"{label} ({extra.replace(' ', ', ').replace('_', ' ')})" if extra else label
        found[method] = Style(words, colour, marker)
    return found


def pair_of(method: str) -> str:
    """`planet/reward horizon=10` -> `planet/reward`"""
    return method.split(" ")[0]


def method_order(method: str) -> tuple[int, list]:
    """Sort key: the order of the paper, then the values of settings as numbers."""
    pair, _, extra = method.partition(" ")
    known = list(LOOKS)
    rank = known.index(pair) if pair in known else len(known)
    words = []
    for item in extra.split(" "):
        key, _, value = item.partition("=")
        number = float(value) if value.replace(".", "", 1).isdigit() else float("inf")
        words.append((key, number, value))
    return rank, words
