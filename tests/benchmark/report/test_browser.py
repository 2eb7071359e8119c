"""The page in headless Chromium: plots are drawn, tables sort and filter, and nothing is asked of the network."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmark.report.context import report_of
from benchmark.report.page import page
from tests.benchmark.report.conftest import MakeCell

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
setTimeout(() => {
  said.open = board.querySelectorAll("details.cell[open]").length;
  said.drawn = document.querySelectorAll(".plot svg").length;
  said.names = [...document.querySelectorAll(".plot svg text")].map((one) => one.textContent);
  said.wide = document.documentElement.scrollWidth > innerWidth;
  said.errors = errors;
  document.body.innerHTML = "<pre id=said></pre>";
  document.getElementById("said").textContent = JSON.stringify(said);
}, 3000);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_plots_are_drawn_and_tables_sort_and_filter_at_the_width_of_a_telephone(tmp_path: Path, cell: MakeCell) -> None:
    records = [cell(30.0, 12.0, 25.0)]
    for name, psnr in (("Masking", 12.5), ("Pruning", 100.0)):
        records += [
            cell(psnr, 12.0, 25.0, defense={"class": name, "ratio": 0.5}, adaptive=knows) for knows in (False, True)
        ]
    content = page(report_of(records, "mine"))
    assert len(content) < 1_500_000
    (tmp_path / "page.html").write_text(f"<script>{TRY}</script></body>".join(content.rsplit("</body>", 1)))
    assert CHROMIUM is not None
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--window-size=390,4000", "--virtual-time-budget=15000", "--dump-dom", f"file://{tmp_path / 'page.html'}"]
    seen = subprocess.run([CHROMIUM, *words], capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<pre id="said">(.*?)</pre>', seen, re.DOTALL)
    assert found, seen[-2000:]
    said = json.loads(html.unescape(found[1]))
    assert said["errors"] == []
    assert said["up"] == sorted(said["up"], key=float) and said["down"] == said["up"][::-1] and len(said["up"]) == 5
    assert said["words"] == sorted(said["words"], key=str.lower) and said["sort"] == "defense"
    assert said["left"] == ["Masking"] * 2 and said["count"] == "2 of 5 rows" and said["cells"] == 2
    assert said["open"] == 1 and said["drawn"] == 2  # the leak rates, and the losses of the open cell
    assert "Pruning ratio=0.5" in said["names"] and "gradient evaluations" in said["names"]
    assert not said["wide"]
