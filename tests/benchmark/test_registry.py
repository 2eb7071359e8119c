"""Classes by name: what belongs to the identity of one."""

import sys
from pathlib import Path

from attacks import IDLG
from benchmark import registry
from benchmark.registry import Spec, code_checksum


def test_the_code_of_an_attack_is_what_it_imports_and_no_more() -> None:
    found = registry.imported(Path(sys.modules[IDLG.__module__].__file__ or ""))
    names = {f"{file.parent.name}/{file.stem}" for file in found}
    assert {"attacks/idlg", "attacks/gradient_matching", "attacks/batch_lbfgs", "defenses/base"} <= names
    assert not {"attacks/dlg", "attacks/__init__", "defenses/masking", "benchmark/bench"} & names


def test_the_checksum_of_the_code_is_that_of_the_parts() -> None:
    def checksum(**names: str) -> str:
        return code_checksum({kind: Spec(name) for kind, name in names.items()})

    one = checksum(data="Digits", model="LeNet", attack="IDLG")
    assert one == checksum(data="MNIST", model="LeNet", attack="IDLG")  # the images are in the record's checksum
    assert one != checksum(data="Digits", model="LeNet", attack="DLG")
    assert one != checksum(data="Digits", model="LeNet", attack="IDLG", defense="Masking")
