"""What makes runs the same method, and the label, colour and marker of each method."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import pandas as pd
import seaborn

from analysis.variants import DEFAULT_BEHAVIOUR, DEFAULTS, DREAMER, pair_label, pair_name, plans


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
    "random": Style("Random actions", "#C4C4C4", "", "-"),
    "best": Style("Best published", "#B5B5B5", "", (0, (6, 2))),
}
SPARE = ("#332288", "#117733", "#AA4499", "#DDCC77", "#661100", "#6699CC")
SPARE_MARKERS = ("h", "*", "d", "p", "8", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (6, 1.4, 1.4, 1.4)), (0, (2.4, 1.2)))

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
    runs of different presets: they are never averaged together. A method's name has every setting
    that differs between methods, except those that its behaviour does not use.
    """
    pairs = zip(runs["behaviour"], runs["representation"], strict=True)
    runs = runs.assign(method=[pair_name(*pair) for pair in pairs])
    apart = NO_METHOD | set(axis)
    within: dict[str, set[str]] = defaultdict(set)  # of runs of one pair: always named
    for (_, pair, _), configs in runs.groupby(["task", "method", "preset"])["config"]:
        within[pair] |= _differing(configs) - apart
    of_task = [_differing(configs) for _, configs in runs.groupby(["task", "preset"])["config"]]
    varying = set().union(*within.values(), *of_task) - apart
    mixed = runs.groupby(["task", "method"])["preset"].transform("nunique") > 1
    names = []
    for run, several in zip(runs.itertuples(), mixed, strict=True):
        extra = [f"preset={run.preset}"] if several else []
        extra += [
            f"{key}={run.config.get(key)}"
            for key in sorted(varying)
            if key in within[run.method] or _is_used(key, run.behaviour)
        ]
        names.append(" ".join([run.method, *extra]))
    found = ", ".join(sorted(set(runs.loc[mixed, "preset"])))
    notes = [f"presets {found} are mixed: drawn apart, not averaged"] if found else []
    return runs.assign(method=names), notes


def _is_used(setting: str, behaviour: str) -> bool:
    """Planner settings are of no use to a behaviour that does not plan, nor `horizon` to others."""
    if setting == "horizon":
        return not plans(behaviour)
    return plans(behaviour) or not setting.startswith("planner_")


def _differing(configs: Iterable[Mapping[str, Any]]) -> set[str]:
    """Keys whose values are not the same in all configs."""
    first, *others = configs
    return {
        key
        for config in others
        for key in first.keys() | config.keys()
        if first.get(key) != config.get(key)
    }


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """A style for each method. A pair has the same colour and marker in every figure.

    Where methods differ in two respects (pair and setting, or two settings), the one with more
    values has the colours and the other the dashes. A pair's colour is that of its method with
    default settings; other methods and unknown pairs get spare colours.
    """
    ordered = sorted(dict.fromkeys(methods), key=method_order)
    pairs = list(dict.fromkeys(map(pair_of, ordered)))
    behaviours = {pair.split("/")[0] for pair in pairs}
    only_representation = len(pairs) > 1 and behaviours == {DEFAULT_BEHAVIOUR}
    colour_of, dash_of = _two_respects(ordered)
    spare = cycle(zip(SPARE, SPARE_MARKERS, strict=True))
    looks: dict[str, tuple[str, str]] = {}
    mains = [default_method([one for one in ordered if pair_of(one) == pair]) for pair in pairs]
    main = {colour_of.get(method, method) for method in mains}
    found: dict[str, Style] = {}
    for method in ordered:
        pair, extra = pair_of(method), settings_of(method)
        key = colour_of.get(method, method)
        if key not in looks:
            looks[key] = LOOKS[pair] if pair in LOOKS and key in main else next(spare)
        label = pair_label(pair, only_representation=only_representation)
        words = [f"{name.replace('_', ' ')} {value}" for name, value in extra.items()]
        if words and len(pairs) == 1:
            label = ", ".join(words).capitalize()
        elif words:  # beside "PlaNet" it goes without saying that the settings are the planner's
            known = "planner " if plans(pair.split("/")[0]) else ""
            label = ", ".join([label, *(word.removeprefix(known) for word in words)])
        found[method] = Style(label, *looks[key], dash_of.get(method, "-"))
    return found


def _two_respects(methods: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """What the colour of each method stands for, and its dashes. Empty unless methods differ in
    exactly two respects, one of them with few values.
    """
    table = pd.DataFrame(
        [{"": pair_of(method), **settings_of(method)} for method in methods]
    ).fillna("")
    respects = [name for name in table if table[name].nunique() > 1]
    if (
        len(respects) != 2
        or len(table.drop_duplicates(respects)) <= table[respects].nunique().max()
    ):
        return {}, {}  # also of two settings that change together
    coloured, dashed = sorted(respects, key=lambda name: (name != "", -table[name].nunique()))
    values = list(dict.fromkeys(table[dashed]))
    if len(values) > len(DASHES):
        return {}, {}
    dashes = dict(zip(values, DASHES, strict=False))
    return (
        dict(zip(methods, map(str, table[coloured]), strict=True)),
        {method: dashes[value] for method, value in zip(methods, table[dashed], strict=True)},
    )


def default_method(methods: Sequence[str]) -> str:
    """The method that others are compared with: the paper's agent if it is there, with the settings
    nearest to the defaults.
    """
    ordered = sorted(methods, key=method_order)

    def distance(method: str) -> tuple[bool, int]:
        other = [
            key for key, value in settings_of(method).items()
            if key in DEFAULTS and value != setting_text(DEFAULTS[key])
        ]  # fmt: skip
        return pair_of(method) != DREAMER, len(other)

    return min(ordered, key=distance)


def settings_of(method: str) -> dict[str, str]:
    """`planet/reward horizon=10.0` -> {"horizon": "10"}"""
    pairs = (item.partition("=") for item in method.split(" ")[1:])
    return {name: setting_text(value) for name, _, value in pairs}


def setting_text(value: Any) -> str:
    """Numbers in their shortest form: 1.0 as 1."""
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value)


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
        try:
            words.append((key, float(value), value))
        except ValueError:
            words.append((key, math.inf, value))
    return rank, words
