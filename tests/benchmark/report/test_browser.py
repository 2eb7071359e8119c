"""The page in headless Chromium: plots are drawn, tables sort and filter, and nothing is asked of the network."""

import json
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from http.server import HTTPServer, SimpleHTTPRequestHandler
from math import inf
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from benchmark.report.context import report_of
from benchmark.report.page import page
from benchmark.report.tradeoff import view
from tests.benchmark.report.conftest import MakeCell
from tests.benchmark.tradeoff.conftest import point, trade_off

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

TRY = """
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
const board = document.querySelector("section.board");
const texts = (name) => {
  const heads = [...board.querySelectorAll("thead th")].map((head) => head.textContent);
  const rows = [...board.querySelectorAll("table.sortable tbody tr")].filter((row) => !row.hidden);
  return rows.map((row) => row.cells[heads.indexOf(name)].textContent);
};
const press = (name) => [...board.querySelectorAll("th button")].find((one) => one.textContent === name).click();
const said = {};
press("PSNR"); said.up = texts("PSNR");
press("PSNR"); said.down = texts("PSNR");
press("defense"); said.words = texts("defense");
said.sort = board.querySelector("th[aria-sort=ascending]").textContent;
const select = board.querySelector("select[name=defense]");
select.value = "Masking"; select.dispatchEvent(new Event("change", { bubbles: true }));
said.left = texts("defense"); said.count = board.querySelector("output").textContent;
said.cells = [...board.querySelectorAll("details.cell")].filter((one) => !one.hidden).length;
location.hash = "#" + board.querySelector("details.cell:not([hidden])").id;
const began = Date.now();
const drawn = setInterval(() => {
  const plots = document.querySelectorAll(".plot svg").length;  // the leak rates, and the losses of the open cell
  if (plots < 2 && errors.length === 0 && Date.now() - began < 100000) return;
  clearInterval(drawn);
  said.open = board.querySelectorAll("details.cell[open]").length;
  said.drawn = document.querySelectorAll(".plot svg").length;
  said.names = [...document.querySelectorAll(".plot svg text")].map((one) => one.textContent);
  said.wide = document.documentElement.scrollWidth > innerWidth;
  said.errors = errors;
  location = "/said?" + encodeURIComponent(JSON.stringify(said));  // the page may ask for nothing, but be left
}, 50);
"""


NATURAL = [
    *("-2", "0.001", "0.10-0.45", "0.10-0.5", "0.2-0.3", "1.49", "300", "1,297", "2.91e+05", "2.86e+08", "inf"),
    *("conv2", "conv10", "noise=1e-05", "noise=0.001", "noise=0.01", "noise=0.1"),
]
"""Texts in the order of the numbers in them."""

SORT = """
const said = { errors: [], tables: [] };
addEventListener("error", (event) => said.errors.push(event.message));
for (const table of document.querySelectorAll("table.sortable")) {
  const columns = {};
  said.tables.push(columns);
  for (const [place, head] of [...table.tHead.rows[0].cells].entries()) {
    head.querySelector("button").click();
    columns[head.textContent] = [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);
  }
}
const row = document.createElement("tr").appendChild(document.createElement("td")).parentElement;
const keyed = (text) => {
  row.cells[0].textContent = text;
  return { text, key: keyOf(row, 0) };
};
said.natural = %s.map(keyed).sort((a, b) => compare(a.key, b.key)).map((one) => one.text);
location = "/said?" + encodeURIComponent(JSON.stringify(said));
"""
"""Sorts by each column, and texts that stand in none."""

PICK = """
const said = { errors: [], warnings: [] };
addEventListener("error", (event) => said.errors.push(event.message));
addEventListener("unhandledrejection", (event) => said.errors.push(String(event.reason)));
console.warn = (...words) => said.warnings.push(words.join(" "));
const figure = document.querySelector("figure[data-spec=rates]");
const bold = () => [...figure.querySelectorAll("svg path[stroke-width='4']")].map((one) => nameOf(one));
const nameOf = (path) => [path.__data__?.datum].flat()[0]?.defense ?? path.__data__?.items?.[0]?.datum?.defense;
const until = async (is) => {
  for (const began = Date.now(); !is() && Date.now() - began < 30000; ) await new Promise((on) => setTimeout(on, 50));
};
const choose = (select, name) => {
  select.value = name;
  for (const kind of ["input", "change"]) select.dispatchEvent(new Event(kind, { bubbles: true }));
};
(async () => {
  figure.scrollIntoView();  // where it is drawn
  await until(() => figure.querySelector("select"));
  const select = figure.querySelector("select");
  said.names = [...select.options].map((one) => one.value);
  said.none = bold();
  said.legend = figure.querySelectorAll(".role-legend-label text").length;
  choose(select, said.names[3]);
  await until(() => bold().length);
  said.picked = bold();
  said.rows = [...document.querySelectorAll("section.board tbody tr")].filter((one) => !one.hidden).length;
  choose(select, "");
  await until(() => !bold().length);
  const { left, top, width, height } = figure.querySelector("svg").getBoundingClientRect();
  const [clientX, clientY] = [left + width / 2, top + height / 2];
  const under = document.elementFromPoint(clientX, clientY);
  said.under = under.__data__.datum.datum?.defense;  // of the nearest point
  for (const kind of ["pointerover", "pointermove"]) {
    under.dispatchEvent(new PointerEvent(kind, { bubbles: true, clientX, clientY }));
  }
  await until(() => bold().length);
  said.near = bold();
  said.tip = document.getElementById("vg-tooltip-element")?.textContent;
})().catch((error) => said.errors.push(String(error))).finally(() => {
  location = "/said?" + encodeURIComponent(JSON.stringify(said));
});
"""
"""Chooses a line, and then points at another."""


class Page(SimpleHTTPRequestHandler):
    """Serves the page, and takes what it says of itself."""

    said: Queue[str]

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path != "/said":
            return super().do_GET()
        self.said.put(unquote(address.query))
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Keeps silent."""


def said_by(content: str, script: str, folder: Path) -> dict[str, Any]:
    """What a script that begins before the page's own ones has found out about it, on a telephone."""
    (folder / "page.html").write_text(f"<script>{script}</script></body>".join(content.rsplit("</body>", 1)))
    assert CHROMIUM is not None
    Page.said = Queue()
    with HTTPServer(("127.0.0.1", 0), partial(Page, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/page.html"
        words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
        browser = subprocess.Popen([CHROMIUM, *words, "--window-size=390,4000", address], stderr=subprocess.DEVNULL)
        try:
            found: dict[str, Any] = json.loads(Page.said.get(timeout=120))
        finally:
            browser.kill()
            browser.wait()
            server.shutdown()
    return found


in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@in_chromium
def test_plots_are_drawn_and_tables_sort_and_filter_at_the_width_of_a_telephone(tmp_path: Path, cell: MakeCell) -> None:
    records = [cell(30.0, 12.0, 25.0)]
    for name, psnr in (("Masking", 12.5), ("Pruning", 100.0)):
        records += [
            cell(psnr, 12.0, 25.0, defense={"class": name, "ratio": 0.5}, adaptive=knows) for knows in (False, True)
        ]
    content = page(report_of(records, "mine"))
    assert len(content) < 1_500_000
    said = said_by(content, TRY, tmp_path)
    assert said["errors"] == []
    assert said["up"] == sorted(said["up"], key=float) and said["down"] == said["up"][::-1] and len(said["up"]) == 5
    assert said["words"] == sorted(said["words"], key=str.lower) and said["sort"] == "defense"
    assert said["left"] == ["Masking"] * 2 and said["count"] == "2 of 5 rows" and said["cells"] == 2
    assert said["open"] == 1 and said["drawn"] == 2
    assert (
        any(name.startswith("Pruning ratio=0.5") for name in said["names"]) and "gradient evaluations" in said["names"]
    )
    assert not said["wide"]


@in_chromium
def test_each_column_sorts_by_its_numbers(tmp_path: Path, cell: MakeCell) -> None:
    stds, epsilons = (0.1, 1e-05, 0.01, 30.0), (291_000.0, 1.49, 2.86e8, inf)
    sent, seconds = (300_000, 1_500_000, 877_000, 950), (0.02, 0.5, 0.003, 1000.0)
    defenses = [{"class": "GaussianNoise", "std": std} for std in stds]
    records = [cell(30.0, 12.0)]
    for defense in defenses:
        records += [cell(12.0, 24.0, defense=defense, adaptive=one) for one in (False, True)]
    costs = zip(defenses, epsilons, sent, seconds, strict=True)
    points = [point(one, 4, 0.01, epsilon=e, bytes=b, client_seconds=s) for one, e, b, s in costs]
    report = replace(report_of(records, "mine"), trade_offs=[view(trade_off(point(), *points))])
    said = said_by(page(report), SORT % json.dumps(NATURAL[::-1]), tmp_path)
    assert said["errors"] == [] and said["natural"] == NATURAL
    trade, board = said["tables"]
    assert trade["epsilon"] == ["1.49", "2.91e+05", "2.86e+08", "inf", "-"]
    assert trade["sent"] == ["0.95 kB", "300 kB", "877 kB", "1.5 MB", "-"]
    assert trade["ms / client"] == ["3", "20", "500", "1e+06", "-"]
    assert trade["strength"] == ["std=1e-05", "std=0.01", "std=0.1", "std=30.0", "-"]
    assert board["strength"] == [one for one in trade["strength"][:4] for _ in "12"] + ["-"]


@in_chromium
def test_a_chart_of_many_lines_names_the_one_that_is_chosen_or_pointed_at(tmp_path: Path, cell: MakeCell) -> None:
    records = [cell(30.0, 12.0, 25.0)]
    for place in range(46):
        defense = {"class": "Masking", "ratio": (place + 1) / 50}
        records += [cell(11.0, 12.0, 10 + place / 2, defense=defense, adaptive=one) for one in (False, True)]
    said = said_by(page(report_of(records, "mine")), PICK, tmp_path)
    assert said["errors"] == [] and said["warnings"] == []
    assert len(said["names"]) == len(set(said["names"])) == 1 + 47 and said["legend"] == 0
    assert said["none"] == [] and said["picked"] == [said["names"][3]] and said["near"] == [said["under"]]
    assert str(said["tip"]).startswith(f"defense{said['under']}dB")
    assert said["rows"] == 1 + 2 * 46 + 47  # the filters of the board are others
