"""The store keeps whole records, and gives a block to one process at a time."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UsageError
from benchmark.store import Store, read_all, read_record, read_scores, write_whole

KEY = "0123456789abcdef"


def record(key: str = KEY, **more: Any) -> dict[str, Any]:
    parts = {"cell": "c", "config": {}, "provenance": {}, "cost": {}, "victims": [], "curve": {}, "picture": ""}
    return {"key": key} | parts | more


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_other_process(folder: Path, body: str) -> "subprocess.Popen[str]":
    """Runs lines with a ``store`` in another process, which prints what it finds."""
    code = f"from pathlib import Path\nfrom benchmark.store import Store\nstore = Store(Path({str(folder)!r}))\n{body}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "b")
    assert not store.done(KEY)
    store.write(record(victims=[{"index": 0, "loss": None}]))
    assert store.done(KEY)
    assert read_all(store.folder) == [record(victims=[{"index": 0, "loss": None}])]


def test_a_record_with_nan_is_never_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        store.write(record(cost={"seconds": float("nan")}))
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


def test_a_block_that_another_did_meanwhile_is_not_given_out(tmp_path: Path) -> None:
    first, second = Store(tmp_path), Store(tmp_path)
    with first.claim(KEY) as claimed:
        assert claimed
        first.write(record())
    with second.claim(KEY) as claimed:
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
    with Store(tmp_path).claim(KEY) as mine:
        assert mine


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UsageError, match=r"can not be written \(No space left on device\): make room"):
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
    monkeypatch.setattr("benchmark.store.FileLock.acquire", full_disk)
    with pytest.raises(UsageError, match="No space left on device"), store.claim(KEY):
        pass


DAMAGED = [
    b"",
    b"{",
    json.dumps(record()).encode()[:-5],
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    json.dumps(record("another key")).encode(),
    json.dumps({"key": KEY}).encode(),
]


WHOLE = json.dumps(record(curve={"loss": [[1.5, None]]}, picture="abcd")).encode()


@pytest.mark.parametrize("content", [*DAMAGED, WHOLE.replace(b"1.5", b"1.5.5"), WHOLE.replace(b"bc", b"\xff\xff")])
def test_scores_of_a_damaged_record_are_not_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / f"{KEY}.json"
    path.write_bytes(content)
    assert read_scores(path) is None and read_record(path) is None


def test_scores_are_the_record_without_what_takes_memory(tmp_path: Path) -> None:
    path = tmp_path / f"{KEY}.json"
    path.write_bytes(WHOLE)
    whole, scores = read_record(path), read_scores(path)
    assert whole and scores and whole == scores | {"curve": {"loss": [[1.5, None]]}, "picture": "abcd"}
    assert "curve" not in scores and "picture" not in scores


def test_a_whole_record_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path).write(record())
    store, read = Store(tmp_path), []
    monkeypatch.setattr("benchmark.store.read_scores", lambda path: read.append(path.name) or read_record(path))
    assert store.scores(KEY) == record()
    for _ in range(3):
        assert store.done(KEY)
    assert read == [f"{KEY}.json"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_is_reported_and_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    store = Store(tmp_path)
    path = store.records / f"{KEY}.json"
    path.write_bytes(content)
    assert read_record(path) is None
    assert not store.done(KEY)
    said = f"leakboard: the record {KEY}.json is damaged: set aside as {KEY}.json.damaged and run again\n"
    assert capsys.readouterr().err == said
    assert [p.name for p in store.records.iterdir()] == [f"{KEY}.json.damaged"]
    assert (store.records / f"{KEY}.json.damaged").read_bytes() == content
    with store.claim(KEY) as claimed:
        assert claimed


def test_a_damaged_record_that_another_process_set_aside_first_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    path = store.records / f"{KEY}.json"
    path.write_bytes(b"{")

    def slower(path: Path) -> None:
        path.unlink()

    monkeypatch.setattr("benchmark.store.read_scores", slower)
    assert not store.done(KEY)


def test_damaged_records_are_left_out_with_a_line_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    store.write(record())
    (store.records / "bad.json").write_bytes(b"{")
    assert read_all(tmp_path) == [record()]
    assert capsys.readouterr().err == "leakboard: the record bad.json is damaged and left out\n"


def test_a_folder_without_a_whole_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no records"):
        read_all(tmp_path)
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="there are no records"):
        read_all(tmp_path)
    (store.records / "bad.json").write_bytes(b"{")
    with pytest.raises(UsageError, match="are damaged"):
        read_all(tmp_path)


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"file/x can not be written \(Not a directory\): give another folder"):
        Store(tmp_path / "file" / "x")


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", forbidden)
    with pytest.raises(UsageError, match=r"can not be written \(Permission denied\)"):
        Store(tmp_path)
