"""The store keeps whole records, and gives a block to one process at a time."""

import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UsageError
from benchmark.store import schema, sealing
from benchmark.store.schema import attack_scores, run_record
from benchmark.store.sealing import Unusable, sealed
from benchmark.store.store import ATTACKS, SHELVES, Shelf, Store, keys_in, read, read_all, set_aside, write_whole
from tests.conftest import MakeRecord

KEY = "0123456789abcdef"


@pytest.fixture
def record(made_record: MakeRecord) -> dict[str, Any]:
    return made_record()


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_other_process(folder: Path, body: str) -> "subprocess.Popen[str]":
    """Runs lines with a ``store`` in another process, which prints what it finds."""
    code = "from pathlib import Path\nfrom benchmark.store.store import Store\n"
    code += f"store = Store(Path({str(folder)!r}))\n{body}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_record_is_read_as_it_was_written(tmp_path: Path, record: dict[str, Any]) -> None:
    store = Store(tmp_path / "a" / "b")
    assert not store.done(record["key"])
    store.write(record)
    assert store.done(record["key"])
    assert read_all(store.folder) == [record]


def test_a_record_with_nan_is_never_written(tmp_path: Path, record: dict[str, Any]) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        store.write(record | {"cost": {"seconds": float("nan")}})
    assert not any(store.records.iterdir())


def test_of_two_stores_one_gets_the_block(tmp_path: Path) -> None:
    first, second = Store(tmp_path), Store(tmp_path)
    with first.claim(KEY) as mine:
        assert mine
        with second.claim(KEY) as theirs:
            assert not theirs
        with second.claim("another block") as theirs:
            assert theirs


def test_a_block_that_was_claimed_but_not_done_can_be_claimed_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(2):
        with store.claim(KEY) as claimed:
            assert claimed


def test_a_block_that_another_did_meanwhile_is_not_given_out(tmp_path: Path, record: dict[str, Any]) -> None:
    first, second = Store(tmp_path), Store(tmp_path)
    with first.claim(record["key"]) as claimed:
        assert claimed
        first.write(record)
    with second.claim(record["key"]) as claimed:
        assert not claimed
    assert not any((tmp_path / "locks").iterdir())


def test_a_failure_in_a_block_lets_it_go(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="mine"), store.claim(KEY):
        raise RuntimeError("mine")
    with Store(tmp_path).claim(KEY) as claimed:
        assert claimed


def test_another_process_keeps_a_block_until_it_is_killed(tmp_path: Path) -> None:
    claims = f"with store.claim({KEY!r}) as claimed:\n    print(claimed, flush=True)\n    import time; time.sleep(60)"
    other = in_other_process(tmp_path, claims)
    try:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        with Store(tmp_path).claim(KEY) as mine:
            assert not mine
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait(60)
    assert (tmp_path / "locks" / f"{KEY}.lock").exists()  # left by the dead, and in nobody's way
    Store(tmp_path)
    assert not any((tmp_path / "locks").iterdir())  # gone with the next run
    with Store(tmp_path).claim(KEY) as mine:
        assert mine


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UsageError, match=r"cannot be written \(No space left on device\): free some space"):
        write_whole(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_ctrl_c_in_a_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"new")
    assert not any(tmp_path.iterdir())


def test_the_file_is_not_there_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.exists()))
    write_whole(path, b"new")
    assert seen == [False]
    assert path.read_bytes() == b"new"


def test_a_full_disk_is_told_when_a_block_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr("benchmark.store.store.FileLock.acquire", full_disk)
    with pytest.raises(UsageError, match="No space left on device"), store.claim(KEY):
        pass


DAMAGED = [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"key":"0123456789abcdef"}', b"[" * 9_000]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_is_reported_and_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    store = Store(tmp_path)
    path = store.records / f"{KEY}.json"
    path.write_bytes(content)
    assert not store.done(KEY)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"leakboard: the record {KEY}.json is ")
    assert said.endswith(f": set aside as {KEY}.json.damaged and run again")
    assert [p.name for p in store.records.iterdir()] == [f"{KEY}.json.damaged"]
    assert (store.records / f"{KEY}.json.damaged").read_bytes() == content
    with store.claim(KEY) as claimed:
        assert claimed


def test_a_record_of_before_there_were_all_checksums_is_shown_but_not_taken_for_one_of_this_run(
    tmp_path: Path, record: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    del record["network_sha256"], record["provenance"]["data_chain"]
    (store.records / f"{KEY}.json").write_bytes(sealed(record | {"key": KEY}))
    assert len(read_all(tmp_path)) == 1 and not store.done(KEY)
    assert "is from an older version of Leakboard" in capsys.readouterr().err


def test_a_whole_record_is_read_once(tmp_path: Path, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path).write(record)
    store = Store(tmp_path)
    looks: list[str] = []
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        looks.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert store.record(record["key"]) == record
    for _ in range(3):
        assert store.done(record["key"])
    assert looks == [f"{record['key']}.json"]


def test_a_record_that_vanishes_or_is_damaged_during_a_run_is_missed(tmp_path: Path, made_record: MakeRecord) -> None:
    store, records = Store(tmp_path), [made_record(first) for first in (0, 2, 4)]
    for one in records:
        store.write(one)
    kept, gone, damaged = (one["key"] for one in records)
    (store.records / f"{gone}.json").unlink()
    (store.records / f"{damaged}.json").write_bytes(b"{")
    assert all(map(store.done, (kept, gone, damaged)))  # nobody looks again while the run goes on
    assert store.vanished([kept, gone, damaged]) == {gone, damaged}
    assert not store.done(gone) and store.keys() == {kept}
    shutil.rmtree(tmp_path)
    assert store.keys() == set() and store.vanished([kept]) == {kept}
    with store.claim(kept) as mine:
        assert mine
        store.write(records[0])
    assert store.done(kept)


def test_a_damaged_record_that_another_process_set_aside_first_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "records" / f"{KEY}.json"

    def slower(content: bytes, name: str) -> dict[str, Any]:
        path.unlink()
        raise Unusable("is damaged")

    store = Store(tmp_path, ATTACKS._replace(parse=slower))
    path.write_bytes(b"{")
    assert not store.done(KEY)


def test_a_record_that_another_process_wrote_anew_meanwhile_is_not_set_aside(
    tmp_path: Path, record: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    store.write(record)
    path = store.records / f"{record['key']}.json"
    assert set_aside(path, run_record, Unusable("was damaged when it was read")) == record
    assert read(path, run_record) == record and not capsys.readouterr().err
    assert [one.name for one in store.records.iterdir()] == [path.name]


def test_damaged_records_are_left_out_with_a_line_for_each(
    tmp_path: Path, record: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    store.write(record)
    (store.records / "bad.json").write_bytes(b"{")
    os.mkfifo(store.records / "pipe.json")
    assert read_all(tmp_path) == [record]
    assert capsys.readouterr().err.splitlines() == [
        "leakboard: the record bad.json is damaged (it is cut off, or not a record): it is left out",
        "leakboard: the record pipe.json is not a file: it is left out",
    ]


def test_a_link_that_leads_nowhere_is_no_record(
    tmp_path: Path, record: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    store.write(record)
    (store.records / f"{KEY}.json").symlink_to(tmp_path / "nowhere")
    said = f"leakboard: the record {KEY}.json is a broken link: "
    assert read_all(tmp_path) == [record] and capsys.readouterr().err == f"{said}it is left out\n"
    assert not store.done(KEY)
    assert capsys.readouterr().err == f"{said}set aside as {KEY}.json.damaged and run again\n"
    assert store.keys() == {record["key"]}


def test_each_record_of_a_folder_is_read_and_decoded_once(
    tmp_path: Path, made_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside its configuration, which is decoded on its own, and checked once for all records of a cell."""
    store = Store(tmp_path)
    records = [made_record(first) for first in range(0, 10, 2)]
    for one in records:
        store.write(one)
    read, decoded = [], []
    real, opened = Path.read_bytes, sealing.opened

    class Counting:
        def __init__(self, decoder: Any) -> None:
            self.decoder = decoder

        def decode(self, content: bytes) -> Any:
            decoded.append(content)
            return self.decoder.decode(content)

    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.stem), real(path))[1])
    monkeypatch.setattr("benchmark.store.schema.opened", lambda c, n, decoder: opened(c, n, Counting(decoder)))
    monkeypatch.setattr("benchmark.store.schema._as_config", Counting(schema._as_config))
    schema.cell_of.cache_clear()
    assert len(read_all(tmp_path, attack_scores)) == 5
    assert sorted(read) == sorted(one["key"] for one in records)
    (configuration,) = [content for content in decoded if content.startswith(b'{"config":')]
    assert json.loads(configuration) == {"config": records[0]["config"]}
    decoded.remove(configuration)
    assert sorted(decoded) == sorted(map(sealed, records))


def test_the_collector_is_off_while_records_are_read_and_back_on_after(
    tmp_path: Path, record: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path).write(record)

    def look(content: bytes, name: str) -> dict[str, Any]:
        assert not gc.isenabled()
        raise Unusable("is damaged")

    with pytest.raises(UsageError):
        read_all(tmp_path, look)
    assert gc.isenabled() and "is damaged" in capsys.readouterr().err


def test_a_folder_without_a_whole_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no records"):
        read_all(tmp_path)
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="there are no records"):
        read_all(tmp_path)
    (store.records / "bad.json").write_bytes(b"{")
    with pytest.raises(UsageError, match=r"no record in .* can be used"):
        read_all(tmp_path)


def test_what_killed_writers_left_is_removed_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    """One is stopped in the midst of a write, by a signal that lets it live; then it is killed."""
    writes = (
        "import os, signal\nfrom benchmark.store.store import write_whole\n"
        "os.fsync = lambda _: (print('writing', flush=True), os.kill(os.getpid(), signal.SIGSTOP))\n"
        "write_whole(store.records / 'x.json', b'content')"
    )
    left = tmp_path / "records" / ".old.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    other = in_other_process(tmp_path, writes)
    try:
        assert other.stdout is not None and other.stdout.readline() == "writing\n"
        Store(tmp_path)
        (living,) = left.parent.iterdir()
        assert living.read_bytes() == b"content" and living != left
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait(60)
    assert living.exists()
    Store(tmp_path)
    assert not any(left.parent.iterdir()) and keys_in(left.parent) == set()


def test_how_far_a_job_is_is_told_until_it_is_done_or_its_process_was_killed(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    store, other = Store(tmp_path), Store(tmp_path)
    assert other.told() == {}
    for steps in (0.5, 1.25):
        store.tell(record["key"], steps, f", round {steps}")
    store.tell("f00", 3, "")
    assert other.told() == {record["key"]: (1.25, ", round 1.25"), "f00": (3.0, "")}
    store.write(record)
    assert other.told() == {"f00": (3.0, "")}
    assert Store(tmp_path).told() == {}


def test_how_far_a_job_is_is_told_as_long_as_a_process_does_it_whoever_joins_the_run(tmp_path: Path) -> None:
    """It may be in one long step and tell nothing anew."""
    store = Store(tmp_path)
    with store.claim("a") as mine:
        assert mine
        store.tell("a", 1, "")
        store.tell("b", 2, "")  # by a process that was killed
        assert Store(tmp_path).told() == {"a": (1.0, "")}
        with Store(tmp_path).claim("a") as other:
            assert not other
    assert Store(tmp_path).told() == {} and not any((tmp_path / "locks").iterdir())


@pytest.mark.parametrize("content", [b"", b"[1.2", b'[1,"', b"[null,1]", b'{"a":1}', b"\xff"])
def test_what_is_half_written_is_not_told(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path)
    store.tell("a", 1, "")
    (tmp_path / "locks" / "b.steps").write_bytes(content)
    assert store.told() == {"a": (1.0, "")}


def test_a_job_goes_on_where_it_cannot_be_told_how_far_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "locks").rmdir()
    store.tell("a", 1, "")
    assert store.told() == {}
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "a.steps").mkdir()
    store.tell("a", 1, "")
    assert store.told() == {}


@pytest.mark.parametrize("shelf", SHELVES)
@pytest.mark.parametrize("there", SHELVES)
def test_a_folder_with_other_records_alone_is_told_with_what_it_holds(
    tmp_path: Path, shelf: Shelf, there: Shelf
) -> None:
    (tmp_path / there.name).mkdir()
    (tmp_path / there.name / "a.json").write_text("{}")
    with pytest.raises(UsageError) as caught:
        read_all(tmp_path, shelf.parse, shelf=shelf)
    said = str(caught.value)
    if shelf == there:
        assert said.startswith("no record in ")
    else:
        assert f", only {there.what}" in said and said.endswith(f": give the folder that {shelf.command} wrote to")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"file/x cannot be written \(Not a directory\): give another folder"):
        Store(tmp_path / "file" / "x")


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", forbidden)
    with pytest.raises(UsageError, match=r"cannot be written \(Permission denied\)"):
        Store(tmp_path)
