"""Pickles of arrays are read as pickle reads them, and run nothing."""

import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy
import pytest

from datamodules import CIFAR10, CIFAR100, DataError
from datamodules.pickles import read_arrays

pytestmark = pytest.mark.filterwarnings("ignore:.*verify_integrity=False")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_as_pickle_reads_them(tmp_path: Path, protocol: int) -> None:
    rows = numpy.arange(24, dtype=numpy.uint8).reshape(4, 6)
    given = {
        "data": rows,
        "turned": rows.T,
        "one": numpy.int64(7),
        "labels": [0, 1],
        "name": "batch 1",
        "raw": b"\x80\xff",
    }
    (tmp_path / "batch").write_bytes(pickle.dumps(given, protocol))
    found = read_arrays(tmp_path / "batch")
    assert list(found) == list(given) and type(found["one"]) is numpy.int64
    for key, value in given.items():
        assert numpy.array_equal(found[key], value) and type(found[key]) is type(value)


def test_a_batch_of_python_2_is_read(tmp_path: Path) -> None:
    """As CIFAR's own files are: protocol 2, names of numpy 1, texts of bytes."""
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
        b"\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x06\x01\x02\x03\x04\x05\xfftbU\x06labelsq\x08]q\t(K\x00K\x09eu."
    )
    (tmp_path / "batch").write_bytes(content)
    found = read_arrays(tmp_path / "batch")
    assert found["data"].tolist() == [[1, 2, 3], [4, 5, 255]] and found["data"].dtype == numpy.uint8
    assert found["labels"] == [0, 9]


class Calls:
    """Calls a function where it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def inside(trick: Any) -> list[Any]:
    """Places in which a pickle can hide a call."""
    hidden = numpy.empty(1, dtype=object)
    hidden[0] = trick
    return [trick, {"data": numpy.zeros((1, 3072), numpy.uint8), "labels": [trick]}, {trick: 1}, hidden]


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, kind: Any, verify: bool, place: int, protocol: int) -> None:
    folder = tmp_path / kind.folder
    folder.mkdir(parents=True)
    tricks = [
        Calls(os.mkdir, str(tmp_path / "ran")),
        Calls(eval, f"__import__('os').mkdir({str(tmp_path / 'ran')!r})"),
        Calls(getattr, "", "join"),
    ]
    for trick in tricks if kind is CIFAR10 and not verify else tricks[:1]:
        for name, _ in kind.dataset.train_list + kind.dataset.test_list:
            (folder / name).write_bytes(pickle.dumps(inside(trick)[place], protocol))
        with pytest.raises(DataError) as caught:
            kind(root=str(tmp_path), verify_integrity=verify).setup()
        assert not (tmp_path / "ran").exists()
        said = str(caught.value)
        assert "\n" not in said and ("its md5 differs" if verify else "which no file of images does") in said


def test_code_in_an_original_is_not_run_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the md5 is right: it is no protection against who can make two files of one md5."""
    monkeypatch.setattr("datamodules.disk.check_integrity", lambda *_: True)
    folder = tmp_path / CIFAR10.folder
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(pickle.dumps(Calls(os.mkdir, str(tmp_path / "ran"))))
    with pytest.raises(DataError, match=r"test_batch asks for posix\.mkdir, which no file of images does"):
        CIFAR10(root=str(tmp_path)).setup()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(OrderedDict(data=1)),
        pickle.dumps(Path("x")),
        pickle.dumps(numpy.random.default_rng()),
        b"cnumpy\nload\n(S'x'\ntR.",  # a function beside those of arrays
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",  # by attributes
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.",
        b"cos\nsystem\n(S'exit 1'\ntR.",
        b"(S'exit 1'\nios\nsystem\n.",
    ],
)
def test_nothing_but_arrays_is_known(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match=r"batch asks for .*, which no file of images does"):
        read_arrays(tmp_path / "batch")


@pytest.mark.parametrize(
    "values", [numpy.array([None]), numpy.array(["text"]), numpy.zeros(2, "c16"), numpy.zeros(2, "M8[s]")]
)
def test_arrays_of_anything_but_numbers_are_refused(tmp_path: Path, values: Any) -> None:
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": values}, 2))
    with pytest.raises(DataError, match=r"batch asks for numbers of the type"):
        read_arrays(tmp_path / "batch")


@pytest.mark.parametrize("type_", ["<i2", ">i2", "<f4", ">f8", "?", "u1", "<u8"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_numbers_of_every_type_and_order_of_bytes(tmp_path: Path, type_: str, protocol: int) -> None:
    given = numpy.arange(12).reshape(3, 4).astype(type_)
    for array in (given, numpy.asfortranarray(given), given[::2, 1:], given[0, 0]):
        (tmp_path / "batch").write_bytes(pickle.dumps([array], protocol))
        (found,) = read_arrays(tmp_path / "batch")
        assert numpy.array_equal(found, array) and found.dtype == array.dtype and found.shape == array.shape


def test_an_array_that_lies_about_its_memory_is_refused(tmp_path: Path) -> None:
    """A type that claims to hold objects makes numbers into addresses, if numpy makes the array."""
    honest = pickle.dumps(numpy.arange(4), 2)
    end = rb"K%st(q.)b"  # of the state of a type: flags, of which 63 says that there are objects
    assert re.search(end % rb"\?", pickle.dumps(numpy.dtype("O"), 2))
    lying = re.sub(end % rb"\x00", rb"K?t\1b", honest)
    assert lying != honest
    (tmp_path / "batch").write_bytes(lying)
    assert read_arrays(tmp_path / "batch").tolist() == [0, 1, 2, 3], "the bytes are still taken for numbers"
    (tmp_path / "batch").write_bytes(honest.replace(b"K\x04\x85", b"K\x09\x85"))
    with pytest.raises(ValueError, match="cannot reshape array of size 4"):
        read_arrays(tmp_path / "batch")


def test_only_codecs_of_text_are_known(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(b"c_codecs\nencode\n(VAAAA\nVzlib\ntR.")
    with pytest.raises(LookupError, match="not a text encoding"):
        read_arrays(tmp_path / "batch")
