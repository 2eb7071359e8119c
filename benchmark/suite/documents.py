"""YAML and JSON as a user gives them: what is ambiguous or absurd is refused, with the line that it is in.

Scalars are read by the core schema of YAML 1.2, which people and other programs expect: ``on``, ``no`` and 2024-01-31
are texts, and 1e5 is a number. What YAML 1.1 alone takes for a number (1:30, 010, 1_000) is a text, which is refused
where a number belongs, as is a number in quotes. Tags (``!!set``) are refused: a value is what it looks like.
"""

import json
import re
import stat
from errno import EINVAL, EISDIR
from math import isinf
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

DEEPEST = 50
"""Lists and mappings within each other."""

MOST_NODES = 100_000
"""Values of a document, where each use of an anchor counts."""

MOST_DIGITS = 1000
"""Of a whole number; what is larger than 64 bits is refused with its name later."""

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
        yaml.YAMLError: it is not YAML, or none that is accepted here; its ``problem`` says in plain words what is wrong
            where its ``problem_mark`` is.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"it has more than {MOST_CHARACTERS:,} characters")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = yaml.Mark("", error.position, before.count("\n"), 0, None, 0)
        raise _refused(f"the character U+{ord(text[error.position]):04X} cannot stand in YAML", mark) from None
    except yaml.MarkedYAMLError as error:
        raise _refused(in_plain_words(error), error.problem_mark or error.context_mark) from None


_PLAIN = (
    (r"but found another document", "a second document begins here (---): a file holds one"),
    (
        r"undefined alias '(.*)'",
        r"*\1 refers to an anchor (&\1) that is not set before it; quote a text that begins with *",
    ),
    (r"duplicate anchor '(.*?)'", r"the anchor &\1 is set twice"),
    (r"alphabetic or numeric character", "a text that begins with * or & must be quoted"),
    (r"found character '\\t'", "a tab cannot indent: use spaces"),
    (r"found character '(.)'", r"a text that begins with \1 must be quoted"),
    (r"mapping values are not allowed", "unexpected colon: check the indentation, or quote the text"),
    (r"mapping keys are not allowed|sequence entries are not", "unexpected entry: check the indentation"),
    (r"could not find expected ':'", "a colon is missing after a key"),
    (r"expected <block end>", "the indentation does not match the lines above, or a quote or bracket is misplaced"),
    (r"unclosed '\[' or '\{'", "the indentation is wrong, or a bracket is not closed"),
    (r"expected ',' or '(.)'", r"a comma or \1 is missing"),
    (r"expected the node content", "a value is missing"),
    (r"unexpected end of stream|unexpected document separator", "a quote is not closed"),
    (r"escape", "a backslash in double quotes starts an escape sequence: use single quotes"),
    (r"for merging", "<< must be given a mapping, or a list of mappings"),
)
"""What PyYAML says, and what that means."""


def in_plain_words(error: yaml.MarkedYAMLError) -> str:
    """What is wrong with a document, in the words of somebody who has not read YAML's grammar."""
    if isinstance(error, _Refused):
        return str(error.problem)
    for pattern, meaning in _PLAIN:
        if found := re.search(pattern, f"{error.context} {error.problem}"):
            return found.expand(meaning)
    return "this is not YAML"


class _Refused(yaml.MarkedYAMLError):
    """What is YAML, and not accepted here; the problem is in plain words already."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema, and without tags."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012, PyYAML's own way

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        if self._depth > DEEPEST:
            raise _refused(f"lists and mappings are nested more than {DEEPEST} deep", event.start_mark)
        if tag := getattr(event, "tag", None):
            short = tag.replace("tag:yaml.org,2002:", "!!")
            raise _refused(f"the tag {short} is not accepted: leave it out", event.start_mark)
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
            if key.tag in _NO_KEYS:
                raise _refused(f"a key must be a name, not {key.value or 'nothing'}", key.start_mark)
            same = {key.value, self.construct_object(key)} if key.value != "<<" else {"<<"}  # 1 is also 0x1 and "1"
            for name in same & first.keys():
                raise _refused(f"{key.value} is given twice, first in line {first[name] + 1}", key.start_mark)
            first |= dict.fromkeys(same, key.start_mark.line)
        return node

    def construct_yaml_int(self, node: ScalarNode) -> int:
        if len(node.value) > MOST_DIGITS:
            raise _refused(f"a number has more than {MOST_DIGITS} digits", node.start_mark)
        return int(node.value, 16 if "x" in node.value else 10)

    def construct_yaml_float(self, node: ScalarNode) -> float:
        found = float(super().construct_yaml_float(node))
        if isinf(found) and "inf" not in node.value.lower():
            raise _refused(f"{node.value} is too large a number; infinity is written .inf", node.start_mark)
        return found

    def construct_document(self, node: Node) -> Any:
        _size(node, {}, set())
        return super().construct_document(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


_NO_KEYS = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:bool")
"""Tags of scalars that name nothing."""


def storable(text: str) -> bool:
    """Whether a text can be written in UTF-8, and stand in a path."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def with_pairs_joined(text: str) -> str:
    """A character that was written as two escapes, as JSON does beyond 16 bits, is one."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:  # one without the other
        return text


def _refused(problem: str, mark: yaml.Mark | None) -> _Refused:
    return _Refused(problem=problem, problem_mark=mark)


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
