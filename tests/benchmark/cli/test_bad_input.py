"""Whatever a user gets wrong ends with one sentence, exit code 2 and nothing half-written."""

import errno
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmark.cli.flags import parsers
from benchmark.cli.main import dispatch
from benchmark.errors import UsageError
from benchmark.jobs.blocks import enough
from benchmark.suite import registry
from benchmark.suite.suite import CONFIGS, SWEEP
from tests.benchmark.cli.conftest import Refused, cell

BASE = """\
scenarios: [{data: Digits, model: LeNet}]
attacks: [{class: IDLG, max_evaluations: 2}]
victims: 2
"""
BARE = BASE.replace("victims: 2\n", "")

pytestmark = pytest.mark.usefixtures("nothing_of_the_developers")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "frob",
            "unknown command 'frob': valid are bench, check, diagnose, list, page, plan, publish, rank, report, run, "
            "show, spectrum, threshold, train, verify",
        ),
        ("rum", "unknown command 'rum': did you mean run"),
        ("run --victim 3", "unknown flag '--victim': did you mean --victims"),
        ("run --defence Masking", "unknown flag '--defence': did you mean --defense"),
        ("run --atack.restarts 3", "unknown flag '--atack.restarts': did you mean --attack.restarts"),
        ("run --defnse.ratio=1", "unknown flag '--defnse.ratio': did you mean --defense.ratio"),
        ("run a b", "unexpected argument 'b'"),
        ("run --victims", "argument --victims: expected one argument"),
        ("run --victims two", "argument --victims: must be a whole number in digits, not 'two'"),
        ("run --attack", "--attack needs a value"),
        ("run --attack IDLG", "a single cell needs --data NAME"),
        (
            "run --defense.ratio 0.5 --data Digits --model LeNet --attack IDLG",
            "--defense.ARGUMENT needs --defense NAME",
        ),
        ("run quick --attack IDLG", "give either a suite or --data"),
        (
            "run --data Digits --model LeNet --attack IDLG DLG",
            "give either a suite or --data, --model and --attack, not both: 'DLG' is read as a suite, and --defense",
        ),
        ("run --attack IDLG --attack DLG", "--attack is given twice: a single cell takes one; several go into a suite"),
        ("run --attack IDLG --attack=IDLG", "--attack is given twice: a single cell takes one; several go"),
        ("plan --defense Sign --defense Masking", "--defense is given twice: a single cell takes one; several go"),
        ("run --attack.tolerance 0 --attack.tolerance 1", "--attack.tolerance is given twice, of which only one could"),
        ("run quick --seed 0 --seed=1", "--seed is given twice, of which only one could count"),
        ("show somewhere --format csv --format csv", "--format is given twice, of which only one could count"),
        ("run --scenario.shared true --scenario.shared false", "--scenario.shared is given twice"),
        ("run quick --batch-size 2", "--batch-size is for a single cell"),
        ("run quick --victims 1_000", "argument --victims: must be a whole number in digits, not '1_000'"),
        ("run quick --victims 2.0", "argument --victims: must be a whole number in digits, not '2.0'"),
        ("run quick --seed \N{ARABIC-INDIC DIGIT THREE}", "argument --seed: must be a whole number in digits"),
        ("threshold masking --ssim 0_5", "argument --ssim: must be a number in digits, not '0_5'"),
        ("threshold masking --stop nan", "argument --stop: must be a number in digits, not 'nan'"),
        ("run quick --victims 0", "victims must be a whole number of at least 1, not 0"),
        ("run quick --seed -1", "seed must be a whole number of at least 0, not -1"),
        ("run quik", "unknown suite 'quik': did you mean quick?"),
        ("run quick.yaml", "unknown suite 'quick.yaml': did you mean quick?"),
        ("run wandb_sweep", "wandb_sweep.yaml is a sweep of Weights & Biases, not a suite: start it with wandb sweep "),
        (
            "train wandb_sweep",
            "wandb_sweep.yaml is a sweep of Weights & Biases, not a suite: start it with wandb sweep ",
        ),
        ("run wandb_swep", "unknown suite 'wandb_swep': valid are attacks, dlg_fb, federated"),
        ("run --attack.help IDLX", "unknown attack 'IDLX': did you mean IDLG"),
        ("show", "the following arguments are required: FOLDER"),
        ("show nowhere", "there are no records in nowhere"),
        ("show nowhere --format xml", "invalid choice: 'xml'"),
        ("show nowhere --attack IDLG", "takes no --data, --model, --defense or --attack"),
        ("list all", "unexpected argument 'all'"),
        ("bench --report --victims 3", "--report uses its own settings"),
        ("bench --report --attack DLG", "--report uses its own settings"),
        ("bench --report --seed 1", "--report uses its own settings"),
        ("bench --report here --reference-victims 0", "must be a whole number of at least 1, not 0"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(refused: Refused, words: str, sentence: str) -> None:
    assert sentence in refused(*words.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--attack IDLX", "unknown attack 'IDLX': did you mean IDLG or DLG?"),
        ("--defense Maskin", "unknown defense 'Maskin': did you mean Masking"),
        ("--model lenet", "unknown model 'lenet': did you mean LeNet"),
        ("--data CIFAR1", "unknown data set 'CIFAR1': did you mean CIFAR10 or CIFAR100 or CIFAR10JPEG?"),
        ("--attack QQ", "unknown attack 'QQ': valid are AnalyticLinear, "),
        ("--attack.max_evals 3", "unknown argument of IDLG 'max_evals': did you mean max_evaluations or labels?"),
        ("--data.size 3", "unknown argument of Digits 'size': valid are none"),
        ("--model.num_classes 3", "unknown argument of LeNet 'num_classes': valid are init_range"),
        ("--defense Masking --defense.ratio 1.5", "Masking: ratio is 1.5, but must be at least 0 and below 1"),
        ("--defense Masking --defense.ratio .nan", "Masking: ratio is nan, but must be"),
        ("--defense Masking --defense.ratio half", "Masking: ratio must be a number, not half"),
        ("--defense Masking --defense.ratio null", "Masking: ratio must be a number, not null"),
        ("--defense Masking --defense.ratio [1", "Masking: ratio must be a number, not [1"),
        ("--defense Masking --defense.rescale maybe", "Masking: rescale must be true or false, not maybe"),
        ("--defense GaussianNoise --defense.std -1", "GaussianNoise: std is -1.0, but must be finite and at least 0"),
        ("--attack.max_evaluations 0", "IDLG: max_evaluations is 0, but must be at least 1"),
        ("--attack.max_evaluations 3.7", "IDLG: max_evaluations must be a whole number, not 3.7"),
        ("--attack.max_evaluations 2020-13-45", "IDLG: max_evaluations must be a whole number, not 2020-13-45"),
        ("--model MLP --model.activation tanh", "MLP: activation is 'tanh', but must be one of relu, sigmoid"),
        ("--victims 0", "victims must be a whole number of at least 1, not 0"),
        ("--victims 501", "Digits has 500 test images, too few for 501 victims: reduce --victims to 500"),
        ("--batch-size 0", "batch_size must be a whole number of at least 1, not 0"),
        (
            "--batch-size 501",
            "Digits has 500 test images, too few for 2 victims of 501 images each: give a batch_size of at most 250",
        ),
        ("--devices foo", "--devices is cpu or different GPU numbers as in 0,1, not 'foo'"),
        ("--devices 0,0", "--devices is cpu or different GPU numbers"),
        ("--threads 0", "--threads must be a whole number of at least 1, not 0"),
        ("--lpips-weights nowhere", "LPIPS weights alexnet-owt-7be5be79.pth"),
        ("--require-lpips", "LPIPS weights alexnet-owt-7be5be79.pth"),
        ("--data MNIST --data-root nowhere", "in nowhere/MNIST/raw, which is not there: point --data-root"),
        ("--data CIFAR10", "in data/cifar-10-batches-py, which is not there: point --data-root"),
        ("--data LFW", "data/lfw-py/lfw-deepfunneled is not there"),
        ("--model GeipingLeNet", "GeipingLeNet is for images of 3 channels: give data of this kind, or model LeNet"),
        ("--attack Bayes --attack.distance cosine", "Bayes has its own likelihood and prior: leave distance and"),
        ("--data ImageFolder", "ImageFolder: the following arguments are required: path: give --data.path VALUE"),
        ("--data ImageFolder --data.path nowhere", "ImageFolder: data/nowhere is not there"),
        ("--data ImageFolder --data.path ~nobody-here/x", "Could not determine home directory"),
    ],
)
def test_a_wrong_cell_is_one_sentence(refused: Refused, words: str, sentence: str) -> None:
    said = refused("run", *cell(*words.split()))
    assert sentence in said
    name = sentence.split(maxsplit=1)[0].rstrip(":")
    assert not said.startswith(f"{name}: {name} ")  # once


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "",
            "own.yaml is empty: give it some of the keys name, seed, victims, block_size, trainer, lpips, scenarios, "
            "attacks, defenses",
        ),
        ("- a\n- b\n", "own.yaml must be a mapping with some of the keys name, seed, victims, block_size, "),
        ("just text", "scenarios, attacks, defenses, training, not 'just text'"),
        ("a: 1\nb: [1\nc: 2\n", "own.yaml, line 3: a comma or ] is missing"),
        ("a: 1\na: b: c\n", "own.yaml, line 2: unexpected colon: check the indentation, or quote the text"),
        (
            "a: !!python/name:os.system\n",
            "own.yaml, line 1: the tag !!python/name:os.system is not accepted: leave it out",
        ),
        ("a: 1\n---\nb: 1\n", "own.yaml, line 2: a second document begins here (---)"),
        (BASE + "seed: 2020-13-45", "seed must be a whole number of at least 0, not 2020-13-45"),
        (BASE + "victim: 3", "unknown key of a suite 'victim': did you mean victims?"),
        (BASE + "1: 3", "unknown key of a suite '1': valid are"),
        (BARE + "victims: 0", "victims must be a whole number of at least 1, not 0"),
        (BARE + "victims: two", "victims must be a whole number of at least 1, not two"),
        (BARE + "victims: 2.5", "victims must be a whole number of at least 1, not 2.5"),
        (BARE + "victims: 2.0", "victims must be a whole number of at least 1, not 2.0: write 2"),
        (BARE + "victims: 2e3", "victims must be a whole number of at least 1, not 2000.0: write 2000"),
        (BARE + "victims: '2'", "victims must be a whole number of at least 1, not '2': write it without quotes"),
        (BARE + "victims: 1_000", "victims must be a whole number of at least 1, not 1_000: write 1000"),
        (BARE + "victims: true", "victims must be a whole number of at least 1, not true"),
        (BASE + "seed: -1", "seed must be a whole number of at least 0, not -1"),
        (BASE + "block_size: 0", "block_size must be a whole number of at least 1, not 0"),
        (BASE + "name: ..", "name must be usable as a folder name, not '..'"),
        (BASE + "defenses:", "defenses must be a list"),
        (BASE + "defenses: [3]", "defense must be a class name or {class: NAME, argument: value}, not 3"),
        (BASE + "defenses: [{clas: Masking}]", "defense must be a class name or"),
        (BASE + "defenses: [Maskin]", "unknown defense 'Maskin': did you mean Masking"),
        (BASE + "defenses: [{class: Masking, rato: 1}]", "unknown argument of Masking 'rato': did you mean ratio?"),
        (BASE + "defenses: [{class: Masking, ratio: 1.5}]", "Masking: ratio is 1.5, but must be"),
        (BASE + "defenses: [{class: Masking, ratio: half}]", "Masking: ratio must be a number, not half"),
        (BASE + "defenses: [{class: Masking, ratio: }]", "Masking: ratio must be a number, not null"),
        (BASE + "defenses: [{class: Masking, sweep: {rato: [1]}}]", "unknown argument of Masking 'rato': did you mean"),
        (BASE + "defenses: [{class: Masking, sweep: {1: [1]}}]", "unknown argument of Masking '1': valid are"),
        (BASE + "defenses: [{class: Masking, sweep: {ratio: [0, 2]}}]", "Masking: ratio is 2.0, but must be"),
        (BASE + "defenses: [{class: Masking, sweep: {ratio: 0.5}}]", "sweep of Masking must give each argument a list"),
        (BASE + "defenses: [{class: Masking, sweep: }]", "sweep of Masking must give each argument a list"),
        ("scenarios: [{data: Digits, model: LeNet}]", "attacks must be a list with at least one entry"),
        ("scenarios: []\nattacks: [IDLG]", "scenarios must be a list with at least one entry"),
        ("scenarios: [Digits]\nattacks: [IDLG]", "a scenario needs data and model"),
        ("scenarios: [{data: Digit, model: LeNet}]\nattacks: [IDLG]", "unknown data set 'Digit': did you mean Digits"),
        ("scenarios: [{data: Digits, model: LeNet, batch: 2}]\nattacks: [IDLG]", "did you mean batch_size"),
        ("scenarios: [{data: [Digits], model: LeNet}]\nattacks: [IDLG]", "data must be a class name or"),
        (
            "scenarios: [{data: Digits, model: LeNet, victims: 501}]\nattacks: [IDLG]",
            "Digits has 500 test images, too few for 501 victims: reduce --victims to 500",
        ),
    ],
)
def test_a_wrong_suite_is_one_sentence_that_names_what_is_near(
    refused: Refused, tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    assert sentence in refused("run", "own.yaml")


@pytest.mark.parametrize("content", [bytes(range(256)), b"\0\1\2"])
def test_a_binary_file_is_no_suite(refused: Refused, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.yaml").write_bytes(content)
    assert re.search(
        r"own.yaml(, line 1: the character U\+0000| is not a text file in UTF-8)", refused("run", "own.yaml")
    )


def test_a_suite_that_is_missing_is_told_with_those_beside_it(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(BASE)
    assert refused("run", "mime.yaml") == "unknown suite 'mime.yaml': did you mean mine.yaml?"
    error = refused("run", str(tmp_path / "mime.yaml"))
    assert "cannot be read (No such file or directory)" in error and str(tmp_path / "mine.yaml") in error
    assert "Is a directory" in refused("run", str(tmp_path))


def test_of_many_suites_that_could_be_meant_the_nearest_are_named_or_those_of_ours(
    refused: Refused, tmp_path: Path
) -> None:
    for number in range(120):
        (tmp_path / f"mine_{number}.yaml").write_text(BASE)
    for command in ("run", "plan", "train", "threshold", "spectrum", "diagnose"):
        said = refused(command, "xyzzy")
        assert said.endswith(", masking_training, quick, and 120 YAML files in this folder") and "mine" not in said
        assert refused(command, "mine_77.yml") == refused("run", "mine_77.yml")
    assert refused("run", "mine_77.yml").startswith("unknown suite 'mine_77.yml': did you mean mine_77.yaml or ")
    folder = str(tmp_path)
    assert refused("run", f"{folder}/xyzzy").endswith(
        f"/mine_0.yaml, {folder}/mine_1.yaml, {folder}/mine_10.yaml and 117 more"
    )
    assert f"; beside it: {folder}/mine_77.yaml, " in refused("run", f"{folder}/mine_77.yml")


def test_a_sweep_of_the_users_is_no_suite_and_none_is_offered(refused: Refused, tmp_path: Path) -> None:
    shutil.copy(CONFIGS / f"{SWEEP}.yaml", tmp_path)
    (tmp_path / "mine.yaml").write_text("method: random\nparameters: {defense.std: {min: 0.1, max: 1}}\nprogram: x\n")
    for command in ("run", "plan", "train", "threshold", "spectrum", "diagnose"):
        sentence = "mine.yaml is a sweep of Weights & Biases, not a suite: start it with wandb sweep mine.yaml"
        assert refused(command, "mine.yaml") == sentence
    assert refused("run", "nothing_like_it").partition(": valid are ")[2].count(SWEEP) == 0
    assert SWEEP not in refused("run", "wandb_swep.yaml")


def test_a_suite_that_may_not_be_read_is_told(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "own.yaml").write_text(BASE)
    monkeypatch.setattr(Path, "read_text", forbidden)
    assert refused("run", "own.yaml") == "the suite own.yaml cannot be read (Permission denied); beside it: own.yaml"


@pytest.mark.parametrize(
    ("there", "given", "sentence"),
    [
        (0, "0", "there is no GPU 0 here (no GPU is found): give --devices cpu or another number"),
        (1, "9", "there is no GPU 9 here (GPU 0 is found): give --devices cpu or another number"),
        (4, "1,9", "there is no GPU 9 here (GPUs 0 to 3 are found): give --devices cpu or another number"),
    ],
)
def test_a_gpu_that_is_not_there_is_told_with_those_that_are(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, there: int, given: str, sentence: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    assert refused("run", *cell("--devices", given)) == sentence


# Data.


def images(folder: Path, damaged: str = "") -> list[str]:
    """A folder of two classes, and the flags for it."""
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (16, 16), (60 * number, 90, 5)).save(folder / name / f"{number}.jpg")
    if damaged:
        (folder / damaged).write_bytes(b"\xff\xd8 garbage")
    return ["--data", "ImageFolder", "--data.path", str(folder), "--data.size", "8"]


def test_a_damaged_private_image_is_named_before_any_work(refused: Refused, tmp_path: Path) -> None:
    error = refused("run", *cell(*images(tmp_path / "photos", "a/0.jpg")))
    assert f"{tmp_path}/photos/a/0.jpg is damaged or not of the expected format" in error


def test_a_damaged_public_image_is_named_when_it_is_read(refused: Refused, tmp_path: Path) -> None:
    error = refused("run", *cell(*images(tmp_path / "photos", "a/3.jpg")), begun=True)
    assert f"{tmp_path}/photos/a/3.jpg is damaged or not of the expected format" in error


def test_an_image_folder_without_images_is_told(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    flags = ["--data", "ImageFolder", "--data.path", str(tmp_path / "photos")]
    assert "photos holds no images in class folders" in refused("run", *cell(*flags))


def test_a_truncated_mnist_file_is_named(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    header = b"\x00\x00\x08\x03\x00\x00\x00\x05\x00\x00\x00\x1c\x00\x00\x00\x1c"
    (folder / "t10k-images-idx3-ubyte").write_bytes(header + bytes(3 * 784))
    flags = ["--data", "MNIST", "--data.verify_integrity", "false", "--data-root", str(tmp_path / "root")]
    assert "t10k-images-idx3-ubyte is damaged" in refused("run", *cell(*flags))


def test_a_truncated_cifar_file_is_named(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": bytes(9000), "labels": [0, 1, 2]})[:-2000])
    flags = ["--data", "CIFAR10", "--data-root", str(tmp_path / "root")]
    assert "test_batch is not the original file (its md5 differs)" in refused("run", *cell(*flags))
    assert "test_batch is damaged" in refused("run", *cell(*flags, "--data.verify_integrity", "false"))


def test_a_data_folder_that_may_not_be_read_is_told(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = images(tmp_path / "photos")
    real = Path.stat

    def stat(self: Path, **more: Any) -> Any:
        if self.name == "photos":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(self, **more)

    monkeypatch.setattr(Path, "stat", stat)
    assert "photos may not be read: change its permissions" in refused("run", *cell(*flags))


# The folder of results.


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ("run quick --out", "--out"),
        ("run --out", "--out"),
        ("train masking_training --out", "--out"),
        ("report x --out", "--out"),
        ("run quick --data-root", "--data-root"),
        ("show", "FOLDER"),
        ("publish x", "TO"),
    ],
)
def test_an_empty_name_is_no_folder(refused: Refused, tmp_path: Path, words: str, flag: str) -> None:
    for given in ([*words.split(), ""], [*words.split()[:-1], f"{flag}="] if flag[0] == "-" else [*words.split(), ""]):
        assert f"argument {flag}: is empty: give a value, or leave it out" in refused(*given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_results_that_cannot_be_written_are_told_before_any_work(refused: Refused, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    error = refused("run", *cell("--out", str(tmp_path / place)))
    assert error == f"the folder {tmp_path / place} cannot be written (Not a directory): give another folder"
    assert (tmp_path / "file").read_text() == "x"


def test_an_attack_for_one_image_does_not_take_a_batch_of_two(refused: Refused) -> None:
    error = refused("run", *cell("--batch-size", "2"))
    assert error.endswith("IDLG attacks one image: give batch_size 1, or attack with DLG")


@pytest.mark.parametrize("attack", [("RGAP",), ("IDLG", "--attack.start", "rgap")])
def test_rgap_does_not_take_a_network_that_it_cannot_solve(
    refused: Refused, attack: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pooling.py").write_text(
        "from torch import nn\n\n\nclass Pooling(nn.Sequential):\n"
        '    """A network with a pooling layer."""\n\n'
        "    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:\n"
        "        super().__init__(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, num_classes))\n\n"
        "    def draw(self, generator):\n"
        "        return {name: p.detach() for name, p in self.named_parameters()}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    error = refused("run", "--data", "Digits", "--model", "pooling.Pooling", "--attack", *attack)
    assert "which Pooling is not: choose another attack or start" in error


# The machine and the command line.


def test_a_text_on_the_command_line_reaches_the_class_as_it_was_typed(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "data" / "faces").mkdir(parents=True)  # which "faces #2" is not
    for text in ("faces #2", "2024", "2024-01-31", "on", "null", "[a]", "a: b", "--x", "é"):
        error = refused("run", *cell("--data", "ImageFolder", f"--data.path={text}"))
        assert error.startswith(f"ImageFolder: data/{text} is not there")
    assert refused("run", *cell("--data", "ImageFolder", "--data.path", "--x")).startswith("--data.path needs a value")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--attack.max_evaluations 100000000000000000000", "must fit into 64 bits"),
        ("--defense GaussianNoise --defense.std 1e300", "the most that float32 holds"),
        ("--data Photos --data.size 1000000", "of which 64 take"),
        ("--seed 99999999999999999999", "seed must be a whole number of at most"),
        ("--victims 99999999999999999999", "victims must be a whole number of at most"),
        ("--threads 5000", "--threads must be a whole number of at most 1,024"),
        ("--threads 2147483648", "--threads must be a whole number of at most 1,024"),
        ("--workers 1000000 --devices cpu", "this machine has memory for"),
        ("--devices mps", "Leakboard runs on CPUs and on CUDA's GPUs, whose cuda:0 is 0"),
    ],
)
def test_what_is_beyond_the_machine_is_refused_before_any_work(refused: Refused, words: str, sentence: str) -> None:
    assert sentence in refused("run", *cell(*words.split()))


def test_a_sweep_of_a_million_is_refused_before_it_is_made(refused: Refused, tmp_path: Path) -> None:
    values = ", ".join(["0.5"] * 1000)
    flags = ", ".join(["true"] * 1000)
    (tmp_path / "own.yaml").write_text(
        BASE + f"defenses: [{{class: Masking, sweep: {{ratio: [{values}], rescale: [{flags}]}}}}]"
    )
    assert "the sweep of Masking makes 1,000,000 cells, but a suite can have 100,000" in refused("run", "own.yaml")


def test_a_pipe_is_no_suite_and_nobody_waits_for_it(refused: Refused, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "own.yaml")
    assert refused("run", "own.yaml").startswith("the suite own.yaml cannot be read (it is not a regular file)")


def slips(name: str) -> set[str]:
    """A name as somebody may mistype it: a letter too few, two letters swapped."""
    place = len(name) // 2
    swapped = name[: place - 1] + name[place] + name[place - 1] + name[place + 1 :]
    return {name[:place] + name[place + 1 :], swapped} - {name}


@pytest.mark.parametrize("command", parsers()[1])
def test_a_slip_in_a_command_or_a_flag_is_told_with_the_right_name(command: str) -> None:
    for slip in slips(command):
        with pytest.raises(UsageError, match=rf"unknown command '{slip}': did you mean .*{command}"):
            dispatch([slip])
    for flag in (one for one in parsers()[1][command]._option_string_actions if "." not in one):  # but KEY, ARGUMENT
        for slip in slips(flag) if len(flag) > 4 else ():
            with pytest.raises(UsageError, match=rf"unknown flag '{slip}': did you mean .*{flag}"):
                dispatch([command, slip, "x", "y"])


@pytest.mark.parametrize("kind", ["attack", "defense", "data", "model"])
def test_a_slip_in_a_class_or_an_argument_is_told_with_the_right_name(kind: str) -> None:
    for name in registry.classes(kind):
        for slip in slips(name):
            with pytest.raises(UsageError, match=rf"did you mean .*{name}"):
                registry.spec(kind, slip, {})
        for argument in registry.arguments(kind, name).names:
            for slip in slips(argument) if len(argument) > 3 else ():
                with pytest.raises(UsageError, match=rf"of {name} '{slip}': did you mean .*{argument}"):
                    registry.spec(kind, name, {slip: 1})


def test_a_folder_is_no_suite(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert refused("run", "mine") == "mine is a folder, not a suite: give a YAML file"


@pytest.mark.parametrize("images", [1, 3, 500])
@pytest.mark.parametrize("victims", [1, 2, 7, 501])
@pytest.mark.parametrize("batch_size", [1, 2, 250, 501, 100_000])
def test_the_numbers_that_are_advised_suffice(images: int, victims: int, batch_size: int) -> None:
    held = images // batch_size
    if held < victims:
        said = enough(victims, images, held).replace(",", "")
        batch = re.search(r"batch_size of (?:at most )?(\d+)", said)
        fewer = re.search(r"--victims to (\d+)", said)
        needed = int(batch[1] if batch else batch_size) * int(fewer[1] if fewer else victims)
        assert 0 < needed <= images
