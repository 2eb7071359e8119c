"""What is installed from the wheel runs without the source tree."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel would install, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(folder / "site-packages")
    return folder / "site-packages"


ISOLATED = """\
import sys
root, wheel = sys.argv[1:3]
sys.path[:] = [wheel, *(path for path in sys.path if path and path != root)]  # the tree is installed as editable
sys.argv[:] = ["leakboard", *sys.argv[3:]]
from leakboard import main
try:
    main()
finally:
    import benchmark
    from benchmark.suite.suite import load, suite_path
    assert benchmark.__file__.startswith(wheel), benchmark.__file__
    assert load(suite_path("quick")).cells
"""


def test_the_wheel_has_the_packages_the_suites_and_no_more(unpacked: Path) -> None:
    top = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"attacks", "benchmark", "datamodules", "defenses", "leakboard.py"}
    packed = {path.relative_to(unpacked) for path in unpacked.rglob("*")}
    for package in ("attacks", "benchmark", "datamodules", "defenses"):
        files = (path for path in (ROOT / package).rglob("*") if path.is_file() and path.suffix != ".pyc")
        assert {path.relative_to(ROOT) for path in files} <= packed
    suites = {path.name: path.read_bytes() for path in (ROOT / "configs").glob("*.yaml")}
    assert suites and suites == {path.name: path.read_bytes() for path in unpacked.glob("benchmark/configs/*")}
    (entry,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "leakboard = leakboard:main" in entry.read_text()


def test_a_suite_runs_in_an_empty_folder_and_those_that_come_with_it_are_found(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "scenarios: [{data: Digits, model: MLP}]\nattacks: [{class: IDLG, max_evaluations: 2}]\nvictims: 2\n"
    )
    keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    environment = keep | {"HOME": str(tmp_path), "TORCH_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ISOLATED, str(ROOT), str(unpacked), "run", "mine.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 blocks run" in done.stdout and (tmp_path / "runs/mine/leaderboard.md").exists()
    assert '"commit":null' in next((tmp_path / "runs/mine/records").iterdir()).read_text()


@pytest.mark.parametrize("place", ["attacks/__init__.py", "benchmark.py"])
def test_a_module_of_the_users_that_hides_ours_is_named(unpacked: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")
    code = "import sys; sys.path[:0] = sys.argv[1:]; from leakboard import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(unpacked)], capture_output=True, text=True, timeout=60
    )
    name = place.partition("/")[0].removesuffix(".py")
    sentence = f"leakboard: {tmp_path / place} hides the package {name} of Leakboard: rename it, or take its folder"
    assert done.returncode == 2 and done.stderr.startswith(sentence) and done.stderr.count("\n") == 1
