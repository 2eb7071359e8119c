"""Published records: few files instead of one for each, and the same records."""

import random
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli.main import main
from benchmark.errors import UsageError
from benchmark.store import published
from benchmark.store.sealing import sealed
from benchmark.store.store import Store, keys_in, read_all, records_in, write_whole
from tests.conftest import MakeRecord


@pytest.fixture
def records(made_record: MakeRecord) -> list[dict[str, Any]]:
    return [made_record(first) for first in range(0, 12, 2)]


def publish(folder: Path, records: list[dict[str, Any]]) -> list[Path]:
    """Adds records to a folder, and returns the files that were written."""
    written = dict(published.filled(folder / "records", [(record["key"], sealed(record)) for record in records]))
    for path, content in written.items():
        write_whole(path, content)
    return list(written)


def by_key(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(records, key=lambda record: str(record["key"]))


def test_records_in_files_of_their_own_and_published_ones_are_the_same(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    for record in records:
        Store(tmp_path / "run").write(record)
    publish(tmp_path / "published", records)
    assert read_all(tmp_path / "published") == read_all(tmp_path / "run") == by_key(records)
    lines = (tmp_path / "published" / "records.jsonl").read_bytes().splitlines()
    assert sorted(lines) == sorted(path.read_bytes() for path in (tmp_path / "run" / "records").iterdir())


@pytest.mark.parametrize("seed", range(3))
def test_files_stay_small_and_nothing_is_lost_or_moved_as_a_folder_grows(
    tmp_path: Path, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    largest = max(len(sealed(record)) for record in records)
    monkeypatch.setattr(published, "LARGEST", 2 * largest + 2)
    random.Random(seed).shuffle(records)
    places: dict[str, Path] = {}
    for record in records:
        (path,) = publish(tmp_path, [record])
        places[record["key"]] = path
        assert all(published.key_of(line) for line in path.read_bytes().splitlines())
    assert len(set(places.values())) == 3 and all(path.stat().st_size <= 2 * largest + 2 for path in places.values())
    assert read_all(tmp_path) == by_key(records)
    assert not publish(tmp_path, records)  # nothing is new
    changed = records[0] | {"cost": records[0]["cost"] | {"notes": ["again"]}}
    assert publish(tmp_path, [*records, changed]) == [places[changed["key"]]]
    assert read_all(tmp_path) == by_key([changed, *records[1:]])


def test_a_run_goes_on_beside_them_and_what_it_writes_counts(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    publish(tmp_path, records[:3])
    store = Store(tmp_path)
    keys = [record["key"] for record in records]
    assert [store.done(key) for key in keys] == [True] * 3 + [False] * 3
    assert store.missing(keys) == store.vanished(keys) == set(keys[3:])
    assert store.record(keys[0]) == records[0]
    again = records[0] | {"cost": records[0]["cost"] | {"notes": ["again"]}}
    for record in (again, records[3]):
        store.write(record)
    assert store.keys() == keys_in(tmp_path / "records") == set(keys[:4])
    assert read_all(tmp_path) == by_key([again, *records[1:4]])


def test_a_file_that_has_changed_is_read_again(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    publish(tmp_path, records[:1])
    assert read_all(tmp_path) == records[:1]
    publish(tmp_path, records[1:])
    assert read_all(tmp_path) == by_key(records)


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        (lambda line, _: line[:-40], "records.jsonl, line 2 is damaged (it is cut off, or not a record)"),
        (lambda *_: b"<<<<<<< HEAD", "records.jsonl, line 2 is damaged (it is cut off, or not a record)"),
        (lambda *_: b'{"x":' + b"[" * 5000, "records.jsonl, line 2 is damaged (it is cut off, or not a record)"),
        (lambda *_: b"", "records.jsonl, line 2 is damaged (it is cut off, or not a record)"),
        (lambda _, other: other, "records.jsonl, line 2 is damaged (it is a copy of another"),
        (lambda *_: sealed({"key": "../other", "config": {}}), "records.jsonl, line 2 is damaged (Object missing"),
        (lambda line, _: line.replace(b"30.0", b"99.0"), "is damaged (its checksum does not match its content)"),
    ],
    ids=["cut off", "a conflict", "deep", "empty", "twice", "outside", "edited"],
)
def test_a_damaged_line_is_told_and_the_others_count(
    tmp_path: Path, records: list[dict[str, Any]], spoiled: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = publish(tmp_path, records)
    lines = path.read_bytes().splitlines()
    lines[1] = spoiled(lines[1], lines[0])
    path.write_bytes(b"\r\n".join(lines))
    assert read_all(tmp_path) == by_key([records[0], *records[2:]])
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and told.endswith("it is left out\n") and ".json " not in told
    store = Store(tmp_path)
    assert not store.done(records[1]["key"]) and store.done(records[2]["key"])
    store.write(records[1])
    assert store.done(records[1]["key"])
    assert read_all(tmp_path) == by_key(records)
    assert lines == path.read_bytes().splitlines(), "a run that goes on changes nothing that is published"


def test_a_published_record_that_cannot_be_used_is_told_once(
    tmp_path: Path, records: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = publish(tmp_path, records[:1])
    path.write_bytes(path.read_bytes().replace(b"30.0", b"99.0"))
    store = Store(tmp_path)
    assert [store.done(records[0]["key"]) for _ in range(3)] == [False] * 3
    told = capsys.readouterr().err
    assert told.count("is damaged (its checksum does not match its content): it is run again") == 1


def test_what_is_no_file_of_records_is_refused_or_left_alone(
    tmp_path: Path, records: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, records)
    for name in ("records-old.jsonl", "records.jsonl.bak", "recordsx.jsonl", "my-records.jsonl"):
        (tmp_path / name).write_bytes(b"mine")
    assert read_all(tmp_path) == by_key(records) and not capsys.readouterr().err
    (tmp_path / "records-02.jsonl").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["show", str(tmp_path)])
    assert ended.value.code == 2 and "records-02.jsonl cannot be read (Is a directory)" in capsys.readouterr().err


def test_a_key_that_leads_elsewhere_reads_and_removes_nothing_there(
    tmp_path: Path, records: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file by somebody else: its key is that of no file, though the record is whole but for that."""
    old = records[0] | {"key": "../../other"}
    del old["network_sha256"]
    old["provenance"] = {name: part for name, part in old["provenance"].items() if name != "data_chain"}
    old["provenance"]["date"] = "2026-01-01T00:00:00Z"
    (tmp_path / "run").mkdir()
    for name, record in (("run/records.jsonl", old), ("other.json", old)):
        (tmp_path / name).write_bytes(sealed(record) + b"\n")
    with (tmp_path / "run" / "records.jsonl").open("ab") as file:
        file.write(sealed(records[1]))
    with pytest.raises(SystemExit) as ended:
        main(["publish", str(tmp_path / "run"), str(tmp_path / "to")])
    assert ended.value.code == 0
    (found,) = read_all(tmp_path / "to")
    assert found == records[1] | {"picture": ""}
    assert "line 1 is damaged (it is a copy of another" in capsys.readouterr().err
    assert (tmp_path / "other.json").exists()


def test_links_are_followed_only_where_that_is_asked_for(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    (path,) = publish(tmp_path, records)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert read_all(tmp_path) == by_key(records)
    with pytest.raises(UsageError, match=r"records\.jsonl is a link"):
        list(records_in(tmp_path / "records", lambda *_: {}, links=False))
