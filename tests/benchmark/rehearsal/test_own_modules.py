"""Which modules are the user's own, and that they are imported anew."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmark.rehearsal.own_modules import imported_anew, own_modules


@pytest.mark.usefixtures("nothing_of_the_developers")
def test_a_module_of_the_users_is_told_from_others_also_in_place_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "own_place", ModuleType("own_place"))  # without a file, as one that is built in
    assert not {"own_place", "torch", "benchmark", "sys"} & own_modules().keys()
    (tmp_path / "own_place.py").write_text("calls = 0\n")
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "own_place")
    first = importlib.import_module("own_place")
    tests = own_modules().keys() - {"own_place"}
    assert own_modules()["own_place"] is first and all(name.startswith("tests.") for name in tests)
    with imported_anew():
        assert own_modules() == {}
        second = importlib.import_module("own_place")
        assert second is not first and own_modules() == {"own_place": second}
    assert own_modules()["own_place"] is first and own_modules().keys() == {"own_place", *tests}
