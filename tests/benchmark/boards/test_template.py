"""Templates print nothing as markup that is none, and say where a number is missing."""

from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest

from benchmark.boards import template
from benchmark.boards.markdown import escaped
from benchmark.boards.template import render

VALUE = "<b>*x* | [y](z) & `c`"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A template of one's own."""
    monkeypatch.setattr(template, "TEMPLATES", tmp_path)
    template._environment.cache_clear()
    yield tmp_path / "mine.md.j2"
    template._environment.cache_clear()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{{ value }}", escaped(VALUE)),
        ("{{ [value, value] | join(' or ') }}", f"{escaped(VALUE)} or {escaped(VALUE)}"),
        ("{% macro of(x) %}*{{ x }}*{% endmacro %}{{ of(value) }}", f"*{escaped(VALUE)}*"),
        ("{% macro of(x) %}{{ x }}{% endmacro %}{{ of(value) | trim }}", escaped(VALUE)),
        ("{{ value | safe }}", VALUE),
        ("*{{ 1234.5 | as(',.1f') }}* {{ 1 | threads }}, {{ 2 | threads }}", "*1,234.5* 1 thread, 2 threads"),
        ("{% for x in [1, 2] %}\n- {{ x }}\n{% endfor %}\n", "- 1\n- 2\n"),
    ],
)
def test_what_is_printed_is_escaped_once_wherever_it_comes_from(written: Path, text: str, shown: str) -> None:
    written.write_text(text)
    assert render("mine.md.j2", value=VALUE) == shown


def test_a_page_within_a_page_stays_as_it_is(written: Path) -> None:
    written.write_text("- {{ value }}")
    once = render("mine.md.j2", value=VALUE)
    assert render("mine.md.j2", value=once) == f"- {once}"


def test_in_html_a_text_is_escaped_once_and_json_cannot_end_its_script(written: Path) -> None:
    written.write_text("{{ value }}{{ [value] | tojson }}")
    assert template.render_html("mine.md.j2", value="<a> *b*") == '&lt;a&gt; *b*["\\u003ca\\u003e *b*"]'


def test_a_number_that_is_missing_is_not_passed_over(written: Path) -> None:
    written.write_text("{{ value }}")
    with pytest.raises(jinja2.UndefinedError, match="value"):
        render("mine.md.j2")


@pytest.mark.parametrize("path", sorted(template.TEMPLATES.rglob("*.j2")), ids=lambda path: path.name)
def test_every_template_can_be_read(path: Path) -> None:
    template._environment().get_template(str(path.relative_to(template.TEMPLATES)))
