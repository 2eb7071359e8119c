"""Records of studies: what is written is read again, what contradicts itself is not, and they can be published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.cli.publish import publish
from benchmark.jobs.blocks import Workbench
from benchmark.store.sealing import Record, Unusable, sealed
from benchmark.store.store import DIAGNOSES, RANKS, Shelf, Store
from benchmark.studies import diagnosis, spectrum
from benchmark.studies.diagnosis import RUNS
from benchmark.studies.study import Study
from benchmark.suite.suite import parse

SUITE = {"scenarios": [{"data": "Digits", "model": "LeNet"}], "attacks": ["IDLG"], "defenses": ["Masking"]}
RANK = {"equations": 9, "pixels": 64, "directions": [1, 2, 3, 4, 5]}
RUN = {"leaked": [True], "status": ["converged"], "label_right": [True], "objective": [None], "size": [1.5]}
OLD = {key: value for key, value in RUN.items() if key != "size"}
LITTLE = {"leaked": [True]}


@pytest.fixture(scope="module")
def records() -> dict[Shelf, Record]:
    bench = Workbench(torch.device("cpu"))
    suite = parse(SUITE, "mine", victims=1)
    (rank, _), (diagnosed,) = spectrum.plan(suite, bench), diagnosis.plan(suite, 1, bench)
    return {
        RANKS: rank.record(RANK, bench),
        DIAGNOSES: diagnosed.record({"runs": dict.fromkeys(RUNS, RUN)}, bench),
    }


@pytest.mark.parametrize("shelf", [RANKS, DIAGNOSES])
def test_a_record_is_read_as_it_was_written(shelf: Shelf, records: dict[Shelf, Record], tmp_path: Path) -> None:
    record = records[shelf]
    assert shelf.parse(sealed(record), record["key"]) == record | {"victims": (0, 1)}
    store = Store(tmp_path / "run", shelf)
    store.write(record)
    assert publish(tmp_path / "run", tmp_path / "to") == 1
    assert (tmp_path / "to" / f"{shelf.name}.jsonl").read_bytes() == sealed(record) + b"\n"
    assert Store(tmp_path / "to", shelf).record(record["key"]) == record | {"victims": (0, 1)}


def of_config(record: Record) -> Record:
    return record | {"config": record["config"] | {"seed": 1}}


def of_origin(**changed: Any) -> Callable[[Record], Record]:
    return lambda record: record | {"provenance": record["provenance"] | changed}


@pytest.mark.parametrize("shelf", [RANKS, DIAGNOSES])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (of_config, "its cell does not match its configuration"),
        (lambda record: record | {"code_sha256": "0" * 64}, "its key does not match"),
        (lambda record: record | {"study_sha256": "0" * 64}, "its key does not match"),
        (lambda record: record | {"network_sha256": ["0" * 16] * 2}, "its key does not match"),
        (lambda record: record | {"victims": [0, 2]}, "its data_chain has gaps"),
        (lambda record: record | {"victims": [1, 0]}, "its data_chain has gaps"),
        (of_origin(data_chain=["0" * 16] * 2), "its key does not match"),
        (of_origin(date="2026-02-30T00:00:00Z"), "is not a date"),
        (lambda record: record | {"more": 1}, "unknown field"),
    ],
)
def test_what_contradicts_itself_is_not_used(
    shelf: Shelf, records: dict[Shelf, Record], change: Callable[[Record], Record], sentence: str
) -> None:
    with pytest.raises(Unusable, match=sentence):
        shelf.parse(sealed(change(records[shelf])), records[shelf]["key"])


@pytest.mark.parametrize(
    ("shelf", "found"),
    [
        (RANKS, {"directions": [2, 1, 3, 4, 5]}),
        (RANKS, {"directions": [1, 2, 3, 4, 65]}),
        (RANKS, {"equations": -1}),
        (DIAGNOSES, {"runs": dict.fromkeys(RUNS, RUN | {"leaked": [True, False]})}),
        (DIAGNOSES, {"runs": dict.fromkeys(RUNS, RUN | {"size": []})}),
        (DIAGNOSES, {"runs": dict.fromkeys(RUNS, LITTLE)}),
        (DIAGNOSES, {"runs": dict.fromkeys(RUNS, OLD)}),
        (DIAGNOSES, {"runs": {"as it is": RUN}}),
        (DIAGNOSES, {"runs": {}}),
        (DIAGNOSES, {"runs": dict.fromkeys([*RUNS, "backwards"], RUN)}),
    ],
)
def test_what_was_found_must_fit(shelf: Shelf, records: dict[Shelf, Record], found: dict[str, Any]) -> None:
    with pytest.raises(Unusable, match="is damaged"):
        shelf.parse(sealed(records[shelf] | found), records[shelf]["key"])


def test_another_code_of_the_study_is_another_job(records: dict[Shelf, Record]) -> None:
    (job, _) = spectrum.plan(parse(SUITE, "mine", victims=1), Workbench(torch.device("cpu")))
    assert job.key == records[RANKS]["key"]
    assert Study(job.block, "0" * 64, job.label, job.group).key != job.key
