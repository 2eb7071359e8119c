"""Values in pages: shown as they are, whatever they are, by a renderer that is not ours."""

import random
import re

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from benchmark.boards.markdown import escaped

PIECES = [
    *"`*_~[]()<>|\\!#+-=.:/@&;$\"'{}^ 1a\N{LATIN SMALL LETTER E WITH ACUTE}",
    *(
        "https://",
        "http://",
        "ftp://",
        "//",
        "www.",
        "WWW.",
        "mailto:",
        "a@b.org",
        "mine.Net",
        "example.com",
        "1.",
        "1)",
    ),
    *(
        "<b>",
        "</td>",
        "<!--",
        "-->",
        "<script>",
        "<https://x.y>",
        "<a@b.c>",
        "![x](y)",
        "[x][y]",
        "[^1]",
        "&lt;",
        "&#96;",
    ),
    *(
        "```",
        "~~~",
        "---",
        "===",
        "- ",
        "* ",
        "+ ",
        "> ",
        "# ",
        "    ",
        "\t",
        "\n",
        "\n\n",
        "|---|",
        "\\|",
        "[ ] ",
        ": ",
    ),
]
PLACES = ["{}", "- {}", "# {}", "text {} text", "| name |\n|---|\n| {} |", "| a | b |\n|---|---|\n| {} | x |"]

LINK = re.compile(r"(https?|ftp):/?/|www\.|\w//\w|^//\w|mailto:\S*@|[\w.+-]@[\w-]+\.\w|\w\.[a-z]{2}", re.IGNORECASE)
"""What GitHub, or the linkify of markdown-it, makes a link of where it stands in one piece of text."""


def inline(page: str) -> list[Token]:
    """The pieces that a page consists of, with what was escaped apart from what was not."""
    renderer = MarkdownIt("commonmark").enable(["table", "strikethrough"]).disable("text_join")
    return [one for token in renderer.parse(page) for one in (token.children or [])]


def blocks(page: str) -> list[str]:
    renderer = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return [token.type for token in renderer.parse(page)]


def is_shown(value: str, place: str) -> None:
    if value.strip() == "-" and place in ("{}", "- {}"):  # the sign for nothing, in cells of tables
        return
    page = place.format(escaped(value))
    tokens = inline(page)
    assert {token.type for token in tokens} <= {"text", "text_special"}, page
    assert not [token.content for token in tokens if token.type == "text" and LINK.search(token.content)], page
    assert blocks(page) == blocks(place.format("x")), page
    html = MarkdownIt("commonmark").enable("table").render(page)
    text = re.sub(r"<[^>]*>", "", html)
    for entity, letter in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = text.replace(entity, letter)
    shown = "".join(text.replace("\u2060", "").split())
    assert "".join(value.split()) in shown, page


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "value", [piece.strip() or "x" for piece in PIECES] + ["# a #", "## ##", "1. x", "12) x", "a - b", "-- -"]
)
def test_a_piece_is_no_markup(value: str, place: str) -> None:
    is_shown(value, place)


@pytest.mark.parametrize("seed", range(4))
def test_names_of_any_letters_are_no_markup(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(150):
        value = "".join(draw.choices(PIECES, k=draw.randint(1, 8)))
        if value.strip():
            is_shown(value, draw.choice(PLACES))


@pytest.mark.parametrize(
    "value", ["IDLG(total_variation=1e-05)", "torch 2.11.0+cpu", "0.50 (4/8)", "-", "-0.5 %", "a, b: c"]
)
def test_what_is_no_markup_is_left_as_it_is(value: str) -> None:
    assert escaped(value) == value
