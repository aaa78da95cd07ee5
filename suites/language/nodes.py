"""A strict YAML reader. Each value knows its line and its key path, for error messages.

Scalars follow YAML 1.2 (`2e6` is a number, `no` is text). Duplicate keys, tabs, NaN, tags, anchors
that contain themselves and several documents in one file are errors. Every error is a UserError of
one line: `suites/x.yaml:12: grid.behaviour[1]: no 'dremer'; did you mean 'dreamer'?`

Imports nothing of the other packages, so that slurm/profiles.py can use it as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dreamer.errors import UserError, describe, nearest, one_line, shorten
from dreamer.run_folder import read_bytes

MAX_NODES = 1_000_000  # more come from anchors that multiply
# The tags that PyYAML itself resolves; `!!python/...` and the like are refused.
_TAGS = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")

_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Node(NamedTuple):
    """A value and its place in the file."""

    value: Any  # dict[str, Node] | list[Node] | str | int | float | bool | None
    where: str  # "suites/x.yaml:12"
    path: str  # "grid.behaviour[1]", "" for the whole file
    written: str | None = None  # a scalar's own text, quotes removed: "0123", "off"

    def error(self, message: str) -> UserError:
        """The error to raise about this value."""
        return UserError(one_line(": ".join(filter(None, (self.where, self.path, message)))))

    def mapping(self) -> dict[str, Node]:
        if not isinstance(self.value, dict):
            raise self.error(f"a mapping (key: value) is expected, not {kind(self.value)}")
        return self.value

    def sequence(self) -> list[Node]:
        if not isinstance(self.value, list):
            raise self.error(f"a list is expected, not {kind(self.value)}")
        return self.value

    def items(self) -> list[Node]:
        """The values of a list, which must have some; a single value counts as a list of one."""
        if self.value == []:
            raise self.error("an empty list")
        return self.value if isinstance(self.value, list) else [self]

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.error(f"text is expected, not {kind(self.value)}")
        return self.value

    def one_of(self, names: Collection[str], what: str = "") -> str:
        """A text that is one of these names; errors call it `what`."""
        name = self.text()
        if name not in names:
            shown = f"{what} {show(name)}".strip()
            raise self.error(f"no {shown}; {nearest(name, names)}")
        return name

    def whole(self, low: int) -> int:
        """A whole number from `low` upwards; 3.0 counts as 3."""
        value = self.value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self.error(f"a whole number is expected, not {kind(self.value)}")
        if value < low:
            raise self.error(f"{show(value)} is less than {low}")
        return value


def kind(value: Any) -> str:
    """A value as messages name it."""
    names = {dict: "a mapping", list: "a list", type(None): "nothing"}
    return names.get(type(value)) or show(value)


def show(value: Any) -> str:
    """A value in a message: one short line."""
    if type(value) is int and abs(value) >= 10**18:
        return f"a number of {len(str(value))} digits"  # read from text: its length is bounded
    return shorten(repr(value))


def read(path: Path) -> str:
    """The text of the file. Raises UserError with the reason if there is none."""
    try:
        text = read_bytes(path).decode("utf-8")
    except FileNotFoundError:
        folder = path.parent if path.parent.is_dir() else Path()
        names = [str(folder / name) for name in sorted(f.name for f in folder.glob("*.yaml"))]
        hint = f"; {nearest(path, names)}" if names else ""
        raise UserError(f"{path}: no such file{hint}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or describe(error)
        raise UserError(one_line(f"{path}: {reason}")) from None
    if not text.strip():
        raise UserError(one_line(f"{path}: empty"))
    return text


def load(path: Path) -> Node:
    """The one document in the file. Raises UserError."""
    text = read(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise UserError(f"{path}: empty")
        return _Converter(path).convert(root, "")
    except yaml.YAMLError as error:
        raise _syntax_error(path, text, error) from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) YAML 1.2 scalar. Raises ValueError if it is not finite."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    if _INT.fullmatch(text) and len(text) <= 400:
        return int(text)
    if _FLOAT.fullmatch(text):
        if not math.isfinite(float(text)):
            raise ValueError(f"{show(text)} is not a finite number")
        return float(text)
    return text


class _Converter:
    """Converts PyYAML's nodes. Aliases become copies, each with the path of its place."""

    def __init__(self, path: Path):
        self.path = path
        self.open: set[int] = set()  # ids of the nodes that are being converted
        self.count = 0

    def convert(self, node: yaml.Node, path: str) -> Node:
        where = f"{self.path}:{node.start_mark.line + 1}"
        here = Node(None, where, path)
        self.count += 1
        if self.count > MAX_NODES:
            raise here.error("too many values (anchors that multiply?)")
        if id(node) in self.open:
            raise here.error("an anchor that contains itself")
        self.open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            value: Any = self._mapping(node, path, here)
        elif isinstance(node, yaml.SequenceNode):
            self._refuse_tag(node, here)
            value = [self.convert(item, f"{path}[{i}]") for i, item in enumerate(node.value)]
        else:
            assert isinstance(node, yaml.ScalarNode)
            value = self._scalar(node, here)
        self.open.discard(id(node))
        written = node.value if isinstance(node, yaml.ScalarNode) else None
        return Node(value, where, path, written)

    def _mapping(self, node: yaml.MappingNode, path: str, here: Node) -> dict[str, Node]:
        self._refuse_tag(node, here)
        values: dict[str, Node] = {}
        for key_node, value_node in node.value:
            at = Node(None, f"{self.path}:{key_node.start_mark.line + 1}", path)
            key = self._scalar(key_node, at) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise at.error(f"keys are text, not {kind(key)}")
            if key == "<<":
                raise at.error("merge keys (<<) are not supported")
            if key in values:
                first = values[key].where.rpartition(":")[2]
                raise at.error(f"duplicate key {show(key)}, first on line {first}")
            # Errors about a value name the line of its key, also if the value starts below.
            child = self.convert(value_node, f"{path}.{key}" if path else key)
            values[key] = child._replace(where=at.where)
        return values

    def _scalar(self, node: yaml.ScalarNode, here: Node) -> Any:
        is_text = node.style is not None  # quoted or block text
        self._refuse_tag(node, here, ("str",) if is_text else _TAGS)
        try:
            return node.value if is_text else scalar(node.value)
        except ValueError as error:
            raise here.error(str(error)) from None

    @staticmethod
    def _refuse_tag(node: yaml.Node, here: Node, known: Collection[str] = _TAGS) -> None:
        prefix, _, name = node.tag.rpartition(":")
        if prefix != "tag:yaml.org,2002" or name not in known:
            raise here.error(f"tags are not supported ({show(node.tag)})")


def _syntax_error(path: Path, text: str, error: yaml.YAMLError) -> UserError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    if mark and mark.line < len(lines := text.splitlines()) and "\t" in lines[mark.line]:
        problem = "a tab; indent with spaces"
    return UserError(one_line(f"{where}: not valid YAML: {problem}"))
