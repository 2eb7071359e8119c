"""Pages from templates: a Jinja2 file in Markdown or HTML beside the code that computes its numbers.

What a template prints is escaped unless it is Markdown (or HTML) already, so that no name in a record becomes markup.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from benchmark.boards.markdown import escaped, threads

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parents[1]


def render(name: str, **context: Any) -> str:
    """A page.

    Args:
        name: path of the template in ``benchmark/``.
        context: what it prints.

    Returns:
        Markdown, which another template prints as it is.
    """
    return Markup(_environment().get_template(name).render(context))


def render_html(name: str, **context: Any) -> Markup:
    """A page, or a part of one, in HTML; see :func:`render`."""
    return Markup(_environment(html=True).get_template(name).render(context))


@cache
def _environment(html: bool = False) -> "jinja2.Environment":
    import jinja2  # a tenth of a second, for which nobody waits who wants no page

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=None if html else _as_markdown,
        autoescape=True,  # macros return Markdown
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    made.filters |= {"as": format, "threads": threads}
    return made


def _as_markdown(value: object) -> object:
    return value if hasattr(value, "__html__") else Markup(escaped(value))
