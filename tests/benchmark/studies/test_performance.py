"""The report on speed: what it measures is what it says, and the page is made of the figures alone."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks import IDLG
from benchmark.errors import UsageError
from benchmark.jobs.blocks import Workbench
from benchmark.studies import bench, performance, performance_page
from benchmark.studies.bench import times
from benchmark.studies.performance import Clock, ClockedIDLG, Setting

RESULTS = Path(__file__).parents[3] / "results"


def test_a_part_is_timed_without_what_is_timed_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    clock = Clock()
    with clock.part("outer"):  # 0 to 5
        with clock.part("inner"):  # 1 to 2
            pass
        with clock.part("inner"):  # 3 to 4
            pass
    assert dict(clock.seconds) == {"outer": 3.0, "inner": 2.0}


def test_the_clocked_attack_is_the_attack_and_its_parts_are_all_of_its_time(victims_of: Callable[..., Any]) -> None:
    _, _, observation = victims_of(3)
    clocked = ClockedIDLG(max_evaluations=30).problem(observation)
    found = clocked.solve()
    torch.testing.assert_close(found.images, IDLG(max_evaluations=30).reconstruct(observation).images)
    assert set(clocked.clock.seconds) == {"gradients", "optimizer", "active set", "Lightning"}
    assert min(clocked.clock.seconds.values()) > 0
    assert sum(clocked.clock.seconds.values()) == pytest.approx(clocked.seconds)


DEEP = Setting("Digits", 3, 40, model="ResNet", iterations=3, batch_size=2)

SMALL = (Setting("Digits", 3, 10), Setting("Digits", 1, 2), DEEP, Setting("Digits", 5, 500, on_gpu=True))


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """A report of small things."""
    torch.set_num_threads(1)
    rows = [{"workers": 1, "threads": 1, "seconds": 8.0}, {"workers": 2, "threads": 1, "seconds": 4.0}]
    changed = {"SETTINGS": SMALL, "CURVE": (1, 64), "DATA": "Digits", "MANY": 70, "EVALUATIONS": 3}
    changed |= {"specs": partial_specs(performance.specs), "workers": lambda root: rows}
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changed.items():
            patch.setattr(performance, name, value)
        patch.setattr(bench, "PIECE", 8)
        found = performance.measure(Workbench(torch.device("cpu")), 2, 1, said.append)
    assert "IDLG, LeNet, Digits, 3 victims, CPU" in said
    found["machine"]["cores"] = 1  # or one number of threads would not be all that can be tried
    return {"cpu": json.loads(json.dumps(found))}


@pytest.fixture
def report(measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The same, and a page on that."""
    monkeypatch.setattr(performance_page, "SETTINGS", SMALL)
    monkeypatch.setattr(performance_page, "CURVE", (1, 64))
    return measured


def partial_specs(real: Callable[..., Any]) -> Callable[..., Any]:
    """At most 60 evaluations."""
    return lambda data, **args: real(data, **({"max_evaluations": 60} | args))


def test_the_page_says_what_was_measured_and_what_was_not(report: dict[str, Any], tmp_path: Path) -> None:
    performance_page.write(report, tmp_path)
    assert performance_page.read(tmp_path) == report
    page = (tmp_path / "performance.md").read_text()
    table = [line for line in page.splitlines() if line.startswith(("| IDLG", "| InvertingGradients"))]
    assert [line.count("|") for line in table] == [11, 11, 11, 11]
    deep = report["cpu"]["settings"]["InvertingGradients, ResNet, Digits, 3 victims of 2 images, CPU"]
    assert {name: side["evaluations_per_victim"] for name, side in deep.items()} == {"one by one": 3, "batched": 3}
    ratio = deep["one by one"]["seconds_per_victim"] / deep["batched"]["seconds_per_victim"]
    assert f"| {times(ratio)} | - | - | 1 / 1 (1) | 3 / 3 |" in table[2]
    sides = report["cpu"]["settings"]["IDLG, LeNet, Digits, 3 victims, CPU"]
    assert [side["victims"] for side in sides.values()] == [2, 2, 2]
    alone = report["cpu"]["settings"]["IDLG, LeNet, Digits, 1 victim, CPU"]
    assert [side["victims"] for side in alone.values()] == [1, 1, 1]
    ratio = sides["one by one"]["seconds_per_victim"] / sides["batched"]["seconds_per_victim"]
    assert f"| {times(ratio)} |" in table[0] and "| 1 / 1 / 1 (1) |" in table[0] and "of 2 |" in table[0]
    assert "not measured" in table[3] and "not measured" not in "".join(table[:3])
    assert "| 2 | 1 | 4.0 | 2.00x |" in page
    assert "Lightning" in page and "GFLOP/s" in page and "MiB" in page
    assert (tmp_path / "performance.png").read_bytes().startswith(b"\x89PNG")


def test_the_arithmetic_of_an_evaluation_is_counted(report: dict[str, Any]) -> None:
    """A gradient, and the gradient of that, are about ten times the products of the three convolutions."""
    places = ((1, 16), (12, 4), (12, 4))
    forward = sum(2 * 12 * 25 * channels * count for channels, count in places) / 1e6
    assert 6 * forward < report["cpu"]["arithmetic"]["mflop_per_evaluation"] < 14 * forward
    assert report["cpu"]["arithmetic"]["peak_gflops"] > 1


@pytest.mark.parametrize("text", ["{", "[]", '{"cpu": 1}', '{"cpu": {"machine": {"cores": 2}, "settings": {}}}'])
def test_a_damaged_report_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "performance.json").write_text(text)
    with pytest.raises(UsageError, match="remove it"):
        performance_page.read(tmp_path)


def test_a_report_from_before_threads_were_tried_is_refused(tmp_path: Path) -> None:
    report = performance_page.read(RESULTS)
    for sides in report["cpu"]["settings"].values():
        del sides["one by one"]["threads_tried"]
    (tmp_path / "performance.json").write_text(json.dumps(report))
    with pytest.raises(UsageError, match="from another version"):
        performance_page.read(tmp_path)


def test_the_published_page_is_made_of_the_published_figures() -> None:
    published = performance_page.read(RESULTS)
    assert (RESULTS / "performance.md").read_text() == performance_page.as_markdown(published)


def test_the_headline_claims_no_speedup_over_a_loop_that_was_not_tried_at_several_thread_counts() -> None:
    def side(seconds: float, threads: int) -> dict[str, Any]:
        return {"seconds_per_victim": seconds, "threads": [threads], "threads_tried": [1, 2]}

    sides = {"one by one": side(12.0, 1), "batched": side(3.0, 2), "batched, start rgap": side(0.25, 2)}
    machine = {"cores": 2, "device": "a CPU"}
    report = {"cpu": {"machine": machine, "settings": {performance.SETTINGS[0].label: sides}}}
    assert performance_page.headline(report) == (
        "On 2 cores (a CPU) an image of CIFAR10 takes 3 s in a block of 64 (2 threads), 4.0x faster than 12 s one by "
        "one as published (1 thread, which suits the loop best); from R-GAP's solution, which is another attack, "
        "48x faster."
    )
    sides["one by one"]["threads_tried"] = [1]
    said = performance_page.headline(report)
    assert "faster" not in said and "the loop was not tried with other numbers" in said
    machine["cores"] = 1  # then there is no other
    assert "4.0x faster" in performance_page.headline(report)
