"""A record is used where it is what a run wrote; everything else is refused in one sentence."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.boards.cells import cells_of_one_code
from benchmark.identity import digest, identity
from benchmark.store import published
from benchmark.store.schema import attack_record, attack_scores
from benchmark.store.sealing import SCHEMA, Unusable, sealed
from benchmark.store.store import Store, read_all
from benchmark.store.training_schema import training_record
from benchmark.training.rows import rows
from benchmark.training.table import as_markdown
from tests.conftest import MakeRecord

RESULTS = Path(__file__).parents[3] / "results"
OLDER = Path(__file__).parents[1] / "training" / "older"


@pytest.fixture
def record(made_record: MakeRecord) -> dict[str, Any]:
    return made_record(3, 2, batch_size=2)


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a JSON value, but the root."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in entries:
        yield (*here, key)
        yield from paths(one, (*here, key))


def changed(record: dict[str, Any], path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> dict[str, Any]:
    """A copy of the record, with something done to what holds the end of the path."""
    made: Any = copy.deepcopy(record)
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    change(holder, path[-1])
    return dict(made)


def put(value: Any) -> Callable[[Any, Any], None]:
    def change(holder: Any, key: Any) -> None:
        holder[key] = value

    return change


def delete(holder: Any, key: Any) -> None:
    del holder[key]


def test_a_record_is_read_as_it_was_written(record: dict[str, Any]) -> None:
    content = sealed(record)
    assert content.startswith(b'{"schema":%d,' % SCHEMA)
    assert hashlib.sha256(content[:-77] + b"}").hexdigest().encode() == content[-66:-2]
    assert attack_record(content, record["key"]) == record
    scores = attack_scores(content, record["key"])
    assert scores == {key: value for key, value in record.items() if key not in ("curve", "picture")}


def test_a_record_with_the_training_of_an_attackers_network_is_read_as_it_was_written(record: dict[str, Any]) -> None:
    made = record | {"cost": record["cost"] | {"training": TRAINING}, "training_sha256": "0123456789abcdef"}
    made |= {"key": digest(identity(made))}
    assert made["key"] != record["key"] and attack_record(sealed(made), made["key"]) == made


def test_every_published_record_is_whole() -> None:
    for kind, parse, every in (("records", attack_record, 100), ("training", training_record, 50)):
        folders = [folder / kind for folder in RESULTS.iterdir()]
        some = [(folder, key) for folder in folders for key in sorted(published.keys(folder))][::every]
        assert some and all(parse(published.line(*of) or b"", of[1])["code_sha256"] for of in some)


def test_published_records_take_few_files_and_none_of_them_is_a_burden_in_the_repository() -> None:
    assert not list(RESULTS.glob("*/*/"))
    assert all(path.stat().st_size <= published.LARGEST for path in RESULTS.glob("*/*.jsonl"))


def test_no_byte_of_a_record_can_be_changed_or_lost(record: dict[str, Any]) -> None:
    content = sealed(record)
    for at in range(0, len(content), 7):
        edited = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        for damaged in (edited, content[:at], content[:at] + content[at + 1 :]):
            with pytest.raises(Unusable, match=r"is damaged|is from an older version"):
                attack_record(damaged, record["key"])
            with pytest.raises(Unusable):
                attack_scores(damaged, record["key"])


TRAINING = {"cpu_seconds": 12.5, "public_images": 100, "steps": 30}

VALUES = [None, True, -1, 3, 10**30, 0.5, -1e300, "", "x", "\u0000<b>", [], [0], {}, {"class": 3}]
FREE = {  # what a record alone can say: any value of the right type may be true
    *("date", "commit", "device", "threads", "versions", "python", "torch", "data_notes", "notes", "seconds"),
    *("victims_at_once", "peak_memory_mib", "start", "status", "evaluations", "loss", "ssim", "null_ssim", "lpips"),
    *("null_psnr", "label_correct", "certified", "data_sha256", "curve", "picture", "training"),
}


def test_a_record_that_was_sealed_again_is_refused_where_it_contradicts_itself(record: dict[str, Any]) -> None:
    """Each value in it is deleted and replaced by values of every type."""
    tried = 0
    for path in paths(record):
        for change in (delete, *map(put, VALUES)):
            made = changed(record, path, change)
            if json.dumps(made) == json.dumps(record):
                continue
            tried += 1
            try:
                read = attack_record(sealed(made), record["key"])
            except Unusable as why:
                assert "\n" not in str(why)
                continue
            assert FREE & set(path), f"{path} is {change}: {why_not(made)}"
            assert read == made
    assert tried > 1500


def why_not(record: dict[str, Any]) -> str:
    return json.dumps(record)[:500]


def without_checksums(record: dict[str, Any]) -> None:
    """As records were written before they had them, but later."""
    del record["network_sha256"], record["provenance"]["data_chain"]
    record["provenance"]["date"] = "2026-12-01T00:00:00Z"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["victims"][0].update(psnr=[99.0, 30.0]), "the PSNR of victim 3 does not match its MSE"),
        (lambda r: r["victims"][0].update(leaked_all=False), "whether victim 3 leaked contradicts its scores"),
        (lambda r: r["victims"][0].update(null_psnr=[31.0, 31.0]), "whether victim 3 leaked"),
        (lambda r: r["victims"][0].update(status="diverged"), "whether victim 3 leaked"),
        (lambda r: r["victims"][0].update(parts={"DLG": False}), "contradicts what the attacks of its ensemble found"),
        (lambda r: r["victims"][0].update(ssim=[0.9]), "victim 3 does not have a score for each of its images"),
        (lambda r: r["victims"].reverse(), "its victims are not consecutive"),
        (lambda r: r["victims"].clear(), "it has no victims"),
        (lambda r: [v.update(index=v["index"] + 1) for v in r["victims"]], "its key does not match"),
        (lambda r: r["victims"].pop(), "its data_chain does not fit its victims"),
        (lambda r: r.update(cell="0" * 16), "its cell does not match its configuration"),
        (lambda r: r.update(config={}), "Object missing required field `schema` - at `[$].config`"),
        (lambda r: r["config"].update(seed=1), "its cell does not match its configuration"),
        (lambda r: (r["config"].update(seed=1), r.update(cell=digest(r["config"]))), "its key does not match"),
        (lambda r: r.update(code_sha256="0" * 64), "its key does not match"),
        (lambda r: r.update(code_sha256=None), "Expected `str`, got `null` - at `[$].code_sha256`"),
        (lambda r: r.update(network_sha256=["0" * 16] * 2), "its key does not match"),
        (lambda r: r["provenance"].update(data_chain=["0" * 16] * 3), "its key does not match"),
        (lambda r: r["curve"]["loss"].pop(), "its curve does not fit its victims"),
        (lambda r: r["curve"]["psnr"][1].pop(), "its curve does not fit its victims"),
        (lambda r: r.update(picture="aGVsbG8="), "its picture is not a PNG"),
        (lambda r: r.update(picture="%"), "its picture is not a PNG"),
        (lambda r: r.update(key="0" * 16), "it is a copy of another"),
        (
            lambda r: r["victims"][1].update(ssim=[5.0, 0.9]),
            "Expected `float` <= 1.0",
        ),
        (lambda r: r["victims"][1].update(ssim=[0.9, -1.1]), "Expected `float` >= -1.0"),
        (lambda r: r["victims"][1].update(null_ssim=[0.9, 1.01]), "Expected `float` <= 1.0"),
        (lambda r: r["victims"][1].update(psnr=[101.0, 30.0]), "Expected `float` <= 100.0"),
        (lambda r: r["victims"][1].update(null_psnr=[-0.1, 11.5]), "Expected `float` >= 0.0"),
        (lambda r: r["victims"][1].update(mse=[1.5, 0.001]), "Expected `float` <= 1.0"),
        (lambda r: r["provenance"].update(lpips={"sha256": "0" * 64}), "victim 3 has LPIPS where there is none"),
        (lambda r: r["victims"][1].update(lpips=[-0.1, 0.2]), "Expected `float` >= 0.0"),
        (lambda r: r["victims"][1].update(evaluations=10**15), "Expected `int` <= 1000000000000"),
        (lambda r: r["victims"][1].update(evaluations=2.5), "Expected `int`, got `float`"),
        (lambda r: r["cost"].update(seconds=1e13), "Expected `float` <= "),
        (lambda r: r["cost"].update(victims_at_once=0), "Expected `int` >= 1"),
        (lambda r: r["curve"].update(psnr=[[5.0, 130.0]] * 2), "Expected `float` <= 100.0"),
        (lambda r: r["provenance"].update(date="2024-13-45T99:99:99Z"), "2024-13-45T99:99:99Z is not a date"),
        (lambda r: r["provenance"].update(date="2023-02-29T00:00:00Z"), "2023-02-29T00:00:00Z is not a date"),
        (lambda r: r["provenance"].update(date="yesterday"), "at `[$].provenance.date`"),
        (lambda r: r.pop("network_sha256"), "it lacks a checksum"),
        (lambda r: r["provenance"].pop("data_chain"), "it lacks a checksum"),
        (without_checksums, "it lacks the checksums of its networks and data"),
        (lambda r: r["cost"].update(training=TRAINING), "it does not say what a training cost"),
        (lambda r: r.update(training_sha256="0" * 16), "it does not say what a training cost"),
        (
            lambda r: (r["cost"].update(training=TRAINING), r.update(training_sha256="0" * 16)),
            "its key does not match",
        ),
        (lambda r: r["cost"].update(training=TRAINING | {"steps": 0}), "Expected `int` >= 1"),
        (lambda r: r["cost"].update(training=TRAINING | {"cpu_seconds": -1.0}), "Expected `float` >= 0.0"),
    ],
)
def test_a_contradiction_is_named(record: dict[str, Any], change: Callable[[dict[str, Any]], Any], said: str) -> None:
    key = record["key"]
    made = copy.deepcopy(record)
    change(made)
    with pytest.raises(Unusable) as why:
        attack_record(sealed(made), key)
    assert str(why.value).startswith("is damaged (") and said.replace("[$]", "$") in str(why.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged (it is cut off, or not a record)"),
        (b"{", "is damaged (it is cut off, or not a record)"),
        (b"[]", "is damaged (Expected `object`, got `array`)"),
        (b"null", "is damaged (Expected `object`, got `null`)"),
        (b"\xff\xfe\x00", "is damaged (it is cut off, or not a record)"),
        (b"[" * 2000 + b"]" * 2000, "is damaged"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "is damaged"),
        (b'{"key":"k","config":{}}', "is from an older version of Leakboard (schema unknown, this one writes 2)"),
        (b'{"schema":1,"key":"k","config":{}}', "is from an older version of Leakboard (schema 1, this one writes 2)"),
        (b'{"schema":2,"key":"k","config":{}}', "is damaged (its checksum does not match its content)"),
        (b'{"schema":"2","key":"k","config":{}}', "is damaged (Expected `int`, got `str` - at `$.schema`)"),
    ],
)
def test_what_is_no_record_is_refused_in_one_sentence(content: bytes, said: str) -> None:
    for parse in (attack_record, attack_scores, training_record):
        with pytest.raises(Unusable) as why:
            parse(content, "k")
        assert str(why.value).startswith(said) and "\n" not in str(why.value)


@pytest.mark.parametrize("deep", [100, 2_000, 100_000])
def test_deep_nesting_under_a_seal_is_no_recursion_error(deep: int) -> None:
    text = b'{"schema":2,"key":"k","config":' + b'{"a":' * deep + b"1" + b"}" * deep + b"}"
    content = text[:-1] + b',"sha256":"%s"}' % hashlib.sha256(text).hexdigest().encode()
    for parse in (attack_record, attack_scores, training_record):
        with pytest.raises(Unusable):
            parse(content, "k")


def test_a_newer_version_is_named() -> None:
    text = b'{"schema":9,"key":"k"}'
    content = text[:-1] + b',"sha256":"%s"}' % hashlib.sha256(text).hexdigest().encode()
    with pytest.raises(Unusable, match="is from a newer version of Leakboard"):
        attack_record(content, "k")


def test_a_path_of_any_bytes_is_written_as_text(record: dict[str, Any]) -> None:
    record["provenance"]["lpips"] = "no weights in /home/\udcff"
    read = attack_record(sealed(record), record["key"])
    assert read["provenance"]["lpips"] == "no weights in /home/?"


# Trainings.


@pytest.fixture
def training() -> dict[str, Any]:
    """Of an older version."""
    key = min(published.keys(OLDER / "training"))
    return training_record(published.line(OLDER / "training", key) or b"", key)


def keyed(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a training under the key that is its own."""
    about = record["config"] | {key: record[key] for key in ("data_sha256", "code_sha256")}
    return record | {"key": digest(about)}


@pytest.fixture
def newer(training: dict[str, Any]) -> dict[str, Any]:
    """As trainings are written now."""
    config = training["config"] | {"schema": 2, "tuning": False, "validation_images": None}
    config["defense"] = {"class": "Clipping", "max_norm": 1.0}
    parts = {"majority": 0.1, "clients_changed": 0.5, "entries_changed": 0.25}
    parts |= {"validation": {"accuracy": 0.5, "loss": 1.5}, "images_tested": 10_000}
    return keyed(training | {"config": config} | parts)


@pytest.mark.parametrize("version", ["training", "newer"])
def test_a_training_that_was_sealed_again_is_refused_where_it_contradicts_itself(
    version: str, request: pytest.FixtureRequest
) -> None:
    training = request.getfixturevalue(version)
    free = {"date", "commit", "device", "threads", "versions", "data_notes", "cost", "curve", "code_sha256"}
    free |= {"images_tested"}
    free |= {
        "majority",
        "validation",
        "clients_changed",
        "entries_changed",
        "images_tested",
        *training["provenance"]["versions"],
    }
    for path in paths(training):
        for change in (delete, *map(put, VALUES)):
            made = changed(training, path, change)
            if json.dumps(made) == json.dumps(training):
                continue
            try:
                read = training_record(sealed(made), training["key"])
            except Unusable:
                continue
            assert free & set(path), path
            assert read == made


def test_a_training_of_any_configuration_is_refused_or_can_be_tabled(newer: dict[str, Any]) -> None:
    """Also where its key is made again of what was deleted or replaced."""
    refused = 0
    for path in paths(newer["config"], ("config",)):
        for change in (delete, *map(put, VALUES)):
            made = keyed(changed(newer, path, change))
            try:
                read = training_record(sealed(made), made["key"])
            except Unusable as why:
                assert "\n" not in str(why)
                refused += 1
                continue
            shown = as_markdown(rows([read]), "mine").count("\n| ")
            assert shown == (0 if read["config"]["tuning"] else 2), path  # a line of names and one of the training
    assert refused > 150


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(accuracy=0.5), "its accuracy is not the last of its curve"),
        (lambda r: r["curve"]["accuracy"].pop(), "its curve has gaps"),
        (lambda r: r["curve"]["round"].reverse(), "its curve is out of order"),
        (lambda r: r.update(status="diverged"), "it diverged but has an accuracy"),
        (lambda r: r["config"].update(seed=9), "its key does not match its configuration, code and data"),
        (lambda r: r.update(round=3), "it did not run all its rounds"),
        (lambda r: r["curve"]["accuracy"].__setitem__(1, 1.5), "Expected `float` <= 1.0"),
        (lambda r: r["curve"]["loss"].__setitem__(1, -0.5), "Expected `float` >= 0.0"),
        (lambda r: r["provenance"].update(date="2024-06-31T00:00:00Z"), "2024-06-31T00:00:00Z is not a date"),
        (lambda r: r["cost"].update(ms_per_round=1e15), "Expected `float` <= "),
        (lambda r: r.update(config={}), "Object missing required field `schema` - at `[$].config`"),
    ],
)
def test_a_contradiction_of_a_training_is_named(
    training: dict[str, Any], change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    change(training)
    with pytest.raises(Unusable) as why:
        training_record(sealed(training), training["key"])
    assert said.replace("[$]", "$") in str(why.value)


def end(record: dict[str, Any], accuracy: float, status: str) -> None:
    """Ends a training with an accuracy."""
    record["curve"]["accuracy"][-1] = accuracy
    record.update(accuracy=accuracy, status=status)


LOST = {"status": "diverged", "accuracy": None, "loss": None, "validation": None}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: end(r, 0.3, "collapsed"), "whether it collapsed contradicts its accuracy"),
        (lambda r: end(r, 0.05, "done"), "whether it collapsed contradicts its accuracy"),
        (lambda r: end(r, 0.05, "collapsed"), ""),
        (lambda r: end(r, 0.1, "collapsed"), ""),
        (lambda r: end(r, 0.1, "done"), ""),  # equal where both are rounded
        (lambda r: r.update(LOST), ""),
        (lambda r: r.update(LOST, loss=3.0), "it diverged but has an accuracy"),
        (lambda r: r.update(LOST, round=r["config"]["rounds"] + 1), "its curve does not fit its rounds"),
        (lambda r: r.update(LOST, round=0), "its curve does not fit its rounds"),
        (lambda r: r.update(LOST, validation=r["validation"]), "its validation does not fit its status"),
        (lambda r: r.update(validation=None), "its validation does not fit its status"),
        (lambda r: r["validation"].update(loss=None), ""),  # infinite
        (lambda r: r["validation"].update(accuracy=1.5), "at `[$].validation.accuracy`"),
        (lambda r: r.pop("majority"), "its parts do not match its schema"),
        (lambda r: r["config"].pop("tuning"), "its configuration is not of its schema"),
        (lambda r: r["config"].update(schema=1), "its configuration is not of its schema"),
        (lambda r: (r["config"].update(schema=1), r["config"].pop("tuning")), "its parts do not match its schema"),
        (lambda r: r["config"].update(defense=None), "what was changed does not fit its defense"),
        (lambda r: r.update(clients_changed=None), "what was changed does not fit its defense"),
        (lambda r: r.update(clients_changed=0.0), "what was changed of clients and of entries contradict each other"),
        (lambda r: r.update(entries_changed=0.0), "what was changed of clients and of entries contradict each other"),
        (lambda r: r.update(clients_changed=0.0, entries_changed=0.0), ""),
        (lambda r: r.update(entries_changed=2.0), "at `[$].entries_changed`"),
    ],
)
def test_what_a_training_says_of_its_defense_and_its_end_fits(
    newer: dict[str, Any], change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    change(newer)
    made = keyed(newer)
    if not said:
        assert training_record(sealed(made), made["key"]) == made
        return
    with pytest.raises(Unusable) as why:
        training_record(sealed(made), made["key"])
    assert said.replace("[$]", "$") in str(why.value)


def test_of_records_with_every_mistake_those_that_are_whole_are_shown(
    tmp_path: Path, record: dict[str, Any], made_record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    """What remains of a folder is what was written, and each file that is left out has one line."""
    store = Store(tmp_path)
    good = made_record(0, 2)
    store.write(good)
    bad = 0
    for number, path in enumerate(paths(record)):
        made = changed(record, path, delete)
        name = f"{number:016x}"
        (store.records / f"{name}.json").write_bytes(sealed(made | {"key": name}))
        bad += 1
    assert read_all(tmp_path) == [good]
    assert read_all(tmp_path, attack_scores)[0]["victims"] == good["victims"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 * bad and all(line.endswith("it is left out") for line in lines)
    assert list(cells_of_one_code(read_all(tmp_path))[0]) == [good["cell"]]
    assert identity(good)["data_chain"] == good["provenance"]["data_chain"]
