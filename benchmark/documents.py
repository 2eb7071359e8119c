"""YAML and JSON as a user gives them: what is ambiguous or absurd is refused, with the line that it is in.

Scalars are read by the core schema of YAML 1.2, which people and other programs expect: ``on``, ``no`` and 2024-01-31
are texts, and 1e5 is a number. What YAML 1.1 alone takes for a number (1:30, 010, 1_000) is a text, which is refused
where a number belongs.
"""

import json
import re
import stat
from errno import EINVAL, EISDIR
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

DEEPEST = 50
"""Lists and mappings within each other."""

MOST_NODES = 100_000
"""Values of a document, where each use of an anchor counts."""

MOST_CHARACTERS = 1_000_000
"""Of a YAML document: PyYAML takes about ten seconds for so many."""


class NotAFile(OSError):
    """A folder, or a pipe, at which a reader would wait."""


def regular(path: Path) -> None:
    """Sees that there is a file that can be read to its end.

    Raises:
        NotAFile: something else is there.
        OSError: there is nothing, or it cannot be seen.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise NotAFile(EISDIR, "Is a directory")
    if not stat.S_ISREG(mode):
        raise NotAFile(EINVAL, "it is not a regular file")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, gives a key twice or is nested too deeply.
    """
    regular(path)
    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level: list[Any] = [found]
    for _ in range(DEEPEST):
        if not (level := [one for value in level for one in _within(value)]):
            return found
    raise ValueError("it is nested too deeply")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _within(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def load_yaml(text: str) -> Any:
    """What a YAML document holds: texts, numbers, true, false, null, lists and mappings of them.

    Raises:
        yaml.YAMLError: it is not YAML, or none that is accepted here.
        ValueError: a number has too many digits.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"it has more than {MOST_CHARACTERS:,} characters")
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema, and no more trust than that."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012, PyYAML's own way
    yaml_constructors = {  # noqa: RUF012, as above
        tag: made
        for tag, made in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        start = self.peek_event().start_mark
        if self._depth > DEEPEST:
            raise _refused(f"lists and mappings are nested more than {DEEPEST} deep", start)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> ScalarNode:
        node: ScalarNode = super().compose_scalar_node(anchor)
        node.value = with_pairs_joined(node.value)
        if not storable(node.value):
            raise _refused(f"{node.value!a} holds a character that no file name can hold", node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node: MappingNode = super().compose_mapping_node(anchor)
        first: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise _refused("a key must be a name, not a list or a mapping", key.start_mark)
            same = {key.value, self.construct_object(key)} if key.value != "<<" else {"<<"}  # 1 is also 0x1 and "1"
            for name in same & first.keys():
                raise _refused(f"{key.value} is given twice, first in line {first[name] + 1}", key.start_mark)
            first |= dict.fromkeys(same, key.start_mark.line)
        return node

    def construct_yaml_int(self, node: ScalarNode) -> int:
        return int(node.value, 16 if "x" in node.value else 10)

    def construct_document(self, node: Node) -> Any:
        _size(node, {}, set())
        return super().construct_document(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def storable(text: str) -> bool:
    """Whether a text can be written in UTF-8, and stand in a path."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def with_pairs_joined(text: str) -> str:
    """A character that was written as two escapes, as JSON does beyond 16 bits, is one."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:  # one without the other
        return text


def _refused(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _size(node: Node, known: dict[int, int], open_: set[int]) -> int:
    """The values of a node, each use of an anchor counted."""
    if id(node) in open_:
        raise _refused("an alias stands within what it names", node.start_mark)
    if id(node) not in known:
        open_.add(id(node))
        parts: list[Node] = []
        if isinstance(node, SequenceNode):
            parts = node.value
        elif isinstance(node, MappingNode):
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known, open_) for part in parts)
        open_.discard(id(node))
        if known[id(node)] > MOST_NODES:
            raise _refused(f"with its aliases this is more than {MOST_NODES:,} values", node.start_mark)
    return known[id(node)]
