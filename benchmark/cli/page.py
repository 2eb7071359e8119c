"""Handler of the command page."""

import argparse
from pathlib import Path

from benchmark.cli.parts import Parts
from benchmark.errors import unknown
from benchmark.papers import leaderboard, overview
from benchmark.store.store import read_all, write_whole

PAPERS = {name: paper.page for name, paper in overview.PAPERS.items()} | dict.fromkeys(
    overview.BOARDS, leaderboard.page
)

OVERVIEW = "results"
"""Name of the page on all that is published."""


def carry_out(options: argparse.Namespace, parts: Parts) -> int:
    """``leakboard page``."""
    folder = Path(options.folder)
    paper = options.paper or folder.resolve().name
    if paper not in (OVERVIEW, *PAPERS):
        raise unknown("paper", paper, (OVERVIEW, *PAPERS))
    if paper == OVERVIEW:
        found = overview.found_in(folder, read_all)
        written = overview.page(found)
        write_whole(folder / "index.html", overview.index(found).encode())
    else:
        written = PAPERS[paper](read_all(folder), folder)
    write_whole(folder / "README.md", written.encode())
    print(written, end="")
    return 0
