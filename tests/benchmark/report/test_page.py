"""The page as a browser reads it: whole, closed, escaped, and without the network."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from benchmark.report import page as pages
from benchmark.report.charts import specs
from benchmark.report.context import Report, report_of
from benchmark.report.page import page
from tests.benchmark.report.conftest import MakeCell, Record
from tests.benchmark.training.conftest import trained

SCRIPT = "window.vegaEmbed = () => {};"
EVIL = 'my.<b>"A"&\'</script><img src=x onerror=alert(1)>'
VOID_TAGS = {"meta", "img", "br", "input", "link", "hr"}


class Page(HTMLParser):
    """The tags of a page with their attributes, and the texts in each kind of tag; fails where one is not closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(content)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text_of(self, tag: str) -> str:
        return "".join(text for inside, text in self.texts if inside == tag)


def evil(cell: MakeCell) -> Report:
    """A page whose every name comes from somebody else, with pictures, curves, a void cell and a trade-off."""
    net = {"data": {"class": "Digits", "kind": EVIL}, "model": {"class": "ConvNet"}}
    defense = {"class": EVIL, "text": EVIL}
    records = [cell(30.0, 12.0, attack={"class": EVIL, "why": EVIL}, **net)]
    records += [
        cell(30.0, 12.0, attack={"class": EVIL, "why": EVIL}, defense=defense, adaptive=knows, **net)
        for knows in (False, True)
    ]
    for record in records:
        record["provenance"] |= {"device": EVIL, "commit": EVIL, "data_notes": [EVIL], "versions": {EVIL: EVIL}}
        record["cost"] |= {"notes": [EVIL]}
        record["void"] = EVIL
    runs = [trained(seed, 0.9, key=f"c{seed}") for seed in range(2)]
    runs += [one | {"key": f"d{one['key']}", "config": one["config"] | {"defense": defense}} for one in runs]
    runs = [
        one | dict.fromkeys(("clients_changed", "entries_changed"), 0.5) if one["config"]["defense"] else one
        for one in runs
    ]
    for one in runs:
        one["config"] = one["config"] | {"data": net["data"], "model": net["model"]}
    return report_of(records, EVIL, trainings=runs, unusable=[EVIL])


@pytest.fixture
def usual(cell: MakeCell) -> Report:
    records: list[Record] = [cell(30.0, 12.0, 25.0)]
    records += [
        cell(12.0, 12.0, 25.0, defense={"class": "Masking", "ratio": 0.5}, adaptive=one) for one in (False, True)
    ]
    return report_of(records, "mine")


def test_the_page_has_one_heading_and_its_tables_have_captions_and_scopes(usual: Report) -> None:
    read = Page(page(usual, SCRIPT))
    assert len(read.of("h1")) == 1 and read.of("html")[0]["lang"] == "en"
    assert len(read.of("table")) == len(read.of("caption")) == 2
    assert read.of("th") and all(one.get("scope") in ("col", "row") for one in read.of("th"))
    sortable = [one for one in read.of("th") if "aria-sort" in one]
    assert len(sortable) == len(usual.boards[0].columns) == len(read.of("button"))
    assert all(one["aria-sort"] == "none" for one in sortable)
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = [str(one["id"]) for _, one in read.tags if "id" in one]
    assert len(set(ids)) == len(ids)
    named = [str(one[key]) for _, one in read.tags for key in ("aria-labelledby",) if key in one]
    links = [str(one["href"]).removeprefix("#") for one in read.of("a")]
    assert named and links and set(named + links) <= set(ids)


def test_every_picture_and_every_plot_says_what_it_shows(usual: Report) -> None:
    read = Page(page(usual, SCRIPT))
    images = read.of("img")
    assert len(images) == 2 * 3 * 3 and all(
        one["alt"] and str(one["src"]).startswith("data:image/png;base64,") for one in images
    )
    plots = [one for one in read.of("div") if one.get("class") == "plot"]
    assert len(plots) == 1 + 3 and all(one["role"] == "img" and one["aria-label"] for one in plots)
    assert len(read.of("figcaption")) == len(read.of("figure"))
    assert all(one.get("aria-hidden") == "true" for one in read.of("svg"))


def test_the_page_asks_nothing_of_the_network(usual: Report) -> None:
    content = page(usual, SCRIPT)
    read = Page(content)
    for tag, attributes in read.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    assert not read.of("link") and not read.of("iframe")
    assert "http:" not in content and "https:" not in content and "url(" not in content and "@import" not in content
    (policy,) = [one["content"] for one in read.of("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy.startswith("default-src 'none';")


def test_names_of_others_are_texts_wherever_they_stand(cell: MakeCell) -> None:
    report = evil(cell)
    assert report.trade_offs and report.boards[0].cells[0].void
    content = page(report, SCRIPT)
    read = Page(content)
    assert all(str(one["src"]).startswith("data:") for one in read.of("img")) and not read.of("b")
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert len(read.of("script")) == content.count("</script>")
    for tag in ("h1", "h2", "title", "caption", "dd", "th", "summary", "option", "li", "strong"):
        assert tag == "strong" or EVIL in read.text_of(tag) or EVIL in read.text_of("span"), tag
    assert EVIL in {one.get("data-defense") for one in read.of("tr")}
    values = [text for inside, text in read.texts if inside == "script" and text.startswith("[")]
    assert any(
        f"{EVIL} text={EVIL} (no rank, 1 unknown)" in point.values() for text in values for point in json.loads(text)
    )


def test_a_page_within_its_limit_says_what_it_left_out(usual: Report) -> None:
    whole = page(usual, SCRIPT)
    assert len(whole.encode()) <= pages.LARGEST and "keep this page small" not in whole
    bare = len(page(usual, SCRIPT, largest=0).encode())
    for largest in range(bare + 700, len(whole.encode()) + 1000, 900):
        content = page(usual, SCRIPT, largest=largest)
        read = Page(content)
        assert len(content.encode()) <= largest
        cells = sum(one.get("class") == "cell" for one in read.of("details"))
        curves = sum(one.get("data-spec") == "losses" for one in read.of("figure"))
        pictures = len(read.of("img")) // 6
        assert cells >= curves and cells >= pictures
        for what, there in (("details", cells), ("loss curves", curves), ("pictures", pictures)):
            missing = re.search(rf"the {what} of (\d+) cells? (?:is|are) left out", content)
            assert (int(missing[1]) if missing else 0) == 3 - there
    assert len(Page(page(usual, SCRIPT, largest=0)).of("tr")) == len(Page(whole).of("tr"))


def test_a_board_of_a_thousand_cells_is_a_page_of_less_than_five_megabytes(cell: MakeCell) -> None:
    control = cell(30.0, 30.0)
    report = report_of([control], "mine")
    (board,) = report.boards
    line, one = board.lines[0], board.cells[0]
    anchors = [f"cell-1-{place}" for place in range(1000)]
    many = replace(
        board,
        lines=[replace(line, anchor=name) for name in anchors],
        cells=[replace(one, anchor=name, victims=one.victims * 20) for name in anchors],
    )
    content = page(replace(report, boards=[many]), "x" * 900_000)
    assert 4_500_000 < len(content.encode()) <= pages.LARGEST == 5_000_000
    assert content.count("<tr data-row") == 1000


def test_the_plots_are_whole_and_in_the_color_of_the_text() -> None:
    for name, spec in specs().items():
        assert spec["config"]["background"] == "transparent" and spec["width"] == "container", name
        assert spec["config"]["legend"]["symbolLimit"] == 0, name  # entries are never left out
        assert spec["config"]["axis"]["labelColor"] == spec["config"]["legend"]["labelColor"] == "currentColor"


def test_losses_below_zero_have_an_axis_of_their_own(cell: MakeCell) -> None:
    record: dict[str, Any] = cell(30.0)
    record["curve"] |= {"loss": [[None, -0.25]]}
    assert 'data-spec="signed_losses"' in page(report_of([record], "mine"), SCRIPT)
    assert {"losses", "signed_losses", "rates", "trade_off"} == set(specs())
