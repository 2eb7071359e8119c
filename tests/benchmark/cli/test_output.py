"""Where the program writes: closed, full, ASCII or a terminal with markup, and Ctrl-C while it does."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from benchmark.boards.leaderboard import of_records
from benchmark.boards.terminal import Console
from benchmark.cli.main import main, one_ctrl_c
from benchmark.errors import UsageError
from benchmark.jobs.progress import bar
from benchmark.store.schema import attack_scores
from benchmark.store.store import Store, read_all

PROGRAM = "from benchmark.cli.main import main; main()"


def program(redirected: str, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command that needs no torch, with its output redirected by a shell."""
    command = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-c", PROGRAM, *words]
    root = str(Path(__file__).parents[3])
    return subprocess.run(command, capture_output=True, cwd=root, env=os.environ | environment, timeout=60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_full_output_is_one_sentence() -> None:
    done = program(">/dev/full", "--help")
    assert done.returncode == 2
    assert done.stderr == b"leakboard: the output cannot be written (No space left on device)\n"
    assert program("2>/dev/full", "frob").returncode == 2


def test_a_closed_output_is_one_sentence() -> None:
    done = program(">&-", "--help")
    assert done.returncode == 2
    assert done.stderr == b"leakboard: the standard output is closed: send it to a file, or to /dev/null\n"
    assert program("2>&-", "frob").returncode == 2


def test_a_reader_who_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", PROGRAM, "--help"], stdout=writer, stderr=subprocess.PIPE, cwd=root)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_rich_tells_of_a_reader_who_has_gone_as_print_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError):
        Console().print("x")


@pytest.mark.parametrize("word", ["fr\N{LATIN SMALL LETTER E WITH ACUTE}b", "\N{GRINNING FACE}", "a\nb", "\x1b[31m"])
def test_what_a_terminal_cannot_show_is_escaped(word: str) -> None:
    done = program("", word, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 2 and done.stderr.startswith(b"leakboard: unknown command ")
    assert done.stderr.isascii() and done.stderr.count(b"\n") == 1 and b"\x1b" not in done.stderr


def test_names_and_paths_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    name = "own[bold] [/x] :smile: [link=a]"
    console = Console(width=200)
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    console.print(table, name)
    assert capsys.readouterr().out.count(name) == 4
    terminal = Console(width=200)
    terminal._force_terminal = True
    with bar(terminal) as progress:
        progress.add_task(name, total=1, counts=name, before=0)
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("form", ["csv", "json"])
def test_what_a_table_for_programs_leaves_out_is_told_beside_it(
    form: str, tmp_path: Path, made_record: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for first, code in ((0, "old"), (2, "new")):
        Store(tmp_path).write(made_record(first, code=code))
    with pytest.raises(SystemExit):
        main(["show", str(tmp_path), "--format", form])
    said = capsys.readouterr()
    *notes, last = said.err.splitlines()
    assert re.fullmatch(r"leakboard: 2 victims of IDLG are from other code .* left out", last)
    for note in of_records(read_all(tmp_path, attack_scores)).boards[0].notes:  # those under the table of a page
        assert any(note in line for line in notes)
    rows = json.loads(said.out) if form == "json" else list(csv.DictReader(said.out.splitlines()))
    assert [int(row["victims"]) for row in rows] == [2]


@pytest.mark.parametrize("module", ["resource", "fcntl"])
def test_what_runs_nowhere_but_on_unix_says_so(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as stopped:
        main(["list"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "leakboard: Leakboard runs on Linux and macOS: on Windows, run it in WSL\n"


@pytest.fixture
def pressed() -> Iterator[None]:
    """Ctrl-C as in a foreground process, and afterwards as before."""
    before, hook = signal.signal(signal.SIGINT, signal.default_int_handler), sys.unraisablehook
    yield
    signal.signal(signal.SIGINT, before)
    sys.unraisablehook = hook


def test_a_second_ctrl_c_does_not_disturb_the_way_out(pressed: None) -> None:
    left = False
    with pytest.raises(KeyboardInterrupt), one_ctrl_c([]):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            left = True
    assert left
    signal.raise_signal(signal.SIGINT)  # while Python ends
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_after_a_command_ctrl_c_is_as_before(pressed: None) -> None:
    with one_ctrl_c([]):
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_library_makes_of_ctrl_c_in_the_middle_of_its_import_is_ctrl_c(
    pressed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def half_imported(given: list[str]) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise ImportError("generic_type: type is already registered")

    monkeypatch.setattr("benchmark.cli.main.dispatch", half_imported)
    with pytest.raises(SystemExit) as stopped:
        main(["list"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "\nleakboard: stopped; finished work is kept, and the same command resumes\n"


@pytest.mark.parametrize("error", [ImportError("no module"), UsageError("say another name")])
def test_without_ctrl_c_an_error_stays_what_it_is(error: Exception, pressed: None) -> None:
    with pytest.raises(type(error)), one_ctrl_c([]):
        raise error
    with pytest.raises(UsageError), one_ctrl_c([signal.SIGINT]):  # nor does it hide what a user must know
        raise UsageError("say another name")
