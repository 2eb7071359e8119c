"""The page in headless Chromium: plots are drawn, tables sort and filter, and nothing is asked of the network."""

import json
import shutil
import subprocess
from functools import partial
from http import HTTPStatus
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from queue import Queue
from threading import Thread
from urllib.parse import unquote, urlsplit

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
    Page.said = Queue()
    with HTTPServer(("127.0.0.1", 0), partial(Page, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/page.html"
        words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        browser = subprocess.Popen([CHROMIUM, *words, "--window-size=390,4000", address], stderr=subprocess.DEVNULL)
        try:
            said = json.loads(Page.said.get(timeout=120))
        finally:
            browser.kill()
            browser.wait()
            server.shutdown()
    assert said["errors"] == []
    assert said["up"] == sorted(said["up"], key=float) and said["down"] == said["up"][::-1] and len(said["up"]) == 5
    assert said["words"] == sorted(said["words"], key=str.lower) and said["sort"] == "defense"
    assert said["left"] == ["Masking"] * 2 and said["count"] == "2 of 5 rows" and said["cells"] == 2
    assert said["open"] == 1 and said["drawn"] == 2
    assert "Pruning ratio=0.5" in said["names"] and "gradient evaluations" in said["names"]
    assert not said["wide"]
