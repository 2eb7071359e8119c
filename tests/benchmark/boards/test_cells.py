"""A cell shows victims of one code, one network and one data set."""

from typing import Any

import pytest

from benchmark.boards.cells import cells_of_one_code, of_one_data_set


def record(
    date: int,
    first: int,
    chain: str = "",
    code: str | None = "a",
    network: str | None = None,
    torch: str = "2.11",
    lpips: str | None = None,
    cell: str = "c",
) -> dict[str, Any]:
    """A record of ``len(chain) - 1`` victims, whose data chain has a letter for each."""
    victims = [{"index": index, "of": date} for index in range(first, first + len(chain) - 1)]
    return {
        "key": f"{date:03}",
        "cell": cell,
        "code_sha256": code,
        "network_sha256": network,
        "config": {"defense": {"class": "m.Mine"}, "attack": {"class": "IDLG"}},
        "provenance": {
            "date": f"2026-01-01T00:00:{date:02}Z",
            "versions": {"torch": torch},
            "lpips": {"sha256": lpips} if lpips else "no weights",
            "data_sha256": chain[1:],
            "data_chain": list(chain),
        },
        "victims": victims,
    }


def shown(*records: dict[str, Any], current: tuple[str, ...] = ()) -> tuple[dict[int, int], list[str]]:
    """The date of the record of each victim that is shown, and what is said."""
    cells, said = cells_of_one_code(records, current)
    (cell,) = cells.values()
    assert list(cell) == sorted(cell)
    return {index: victim["of"] for index, (victim, _) in cell.items()}, said


def test_a_victim_counts_once_and_that_of_the_newer_record() -> None:
    assert shown(record(1, 0, ".abcd"), record(2, 0, ".ab")) == ({0: 2, 1: 2, 2: 1, 3: 1}, [])


def test_older_code_is_left_out_and_counted() -> None:
    said = ["2 victims of m.Mine are from other code or another network than the newest and left out"]
    assert shown(record(1, 0, ".abcd"), record(2, 0, ".ab", code="b")) == ({0: 2, 1: 2}, said)
    assert shown(record(1, 0, ".abcd", network="x"), record(2, 0, ".ab", network="y")) == ({0: 2, 1: 2}, said)
    assert shown(record(1, 0, ".abcd", lpips="x"), record(2, 0, ".ab", lpips="y"))[0] == {0: 2, 1: 2}
    assert shown(record(1, 0, ".ab"), record(2, 0, ".ab", code="b")) == ({0: 2, 1: 2}, [])  # nothing is missing


def test_the_code_that_is_known_to_be_present_counts_before_the_newest() -> None:
    old, new = record(1, 0, ".ab"), record(2, 0, ".ab", code="b")
    assert shown(old, new, current=("001",))[0] == {0: 1, 1: 1}


def test_other_data_are_left_out() -> None:
    said = ["2 victims of m.Mine are from other data than the newest and left out"]
    assert shown(record(1, 0, ".abcd"), record(2, 0, ".xy")) == ({0: 2, 1: 2}, said)
    assert shown(record(1, 0, ".abcd"), record(2, 0, "!xy")) == ({0: 2, 1: 2}, said)  # the public images changed


def test_other_data_are_left_out_where_they_only_touch() -> None:
    blocks = record(1, 0, ".abcd"), record(2, 4, "def")
    assert shown(*blocks)[0] == {0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 2}
    assert shown(*blocks, record(3, 0, ".abcy"))[0] == dict.fromkeys(range(4), 3)


def test_other_data_are_left_out_where_a_third_record_contradicts() -> None:
    """The newest has two victims; the block of victims 4 and 5 is of the data of an older block."""
    blocks = record(1, 0, ".abcd"), record(2, 4, "def")
    assert shown(*blocks, record(3, 0, ".xy")) == (
        {0: 3, 1: 3},
        ["4 victims of m.Mine are from other data than the newest and left out"],
    )
    assert shown(*blocks, record(3, 0, ".ab"))[0] == {0: 3, 1: 3, 2: 1, 3: 1, 4: 2, 5: 2}
    assert shown(*blocks, record(3, 0, ".ax"))[0] == {0: 3, 1: 3}  # the first image is the same


def test_the_newest_count_where_others_have_their_images_but_other_public_ones() -> None:
    newest, others = [record(3, 0, "!abcd"), record(2, 0, "!abcd")], [record(1, 0, ".wxyz"), record(0, 4, "zef")]
    others[0]["provenance"]["data_sha256"] = newest[0]["provenance"]["data_sha256"]  # of private images alone
    assert of_one_data_set([*newest, *others]) == (newest, others)


def test_records_of_before_each_victim_had_a_checksum_are_compared_by_their_block() -> None:
    def old(date: int, data: str) -> dict[str, Any]:
        made = record(date, 0, data)
        del made["provenance"]["data_chain"]
        return made

    assert shown(old(1, ".ab"), old(2, ".ab")) == ({0: 2, 1: 2}, [])
    assert len(cells_of_one_code([old(1, ".ab"), old(2, ".xy")])[0]["c"]) == 2


def test_two_versions_of_torch_in_a_cell_are_mentioned() -> None:
    records = record(1, 0, ".ab"), record(2, 2, "bcd", torch="2.12")
    assert shown(*records) == (
        {0: 1, 1: 1, 2: 2, 3: 2},
        ["victims of one cell were attacked with torch 2.11 and 2.12"],
    )


def test_cells_are_judged_alone_and_sentences_are_few() -> None:
    records = [record(1, 0, ".abc", cell=str(cell)) for cell in range(50)]
    records += [record(2, 0, ".a", code="b", cell=str(cell)) for cell in range(50)]
    cells, said = cells_of_one_code(records)
    assert len(cells) == 50
    assert said == ["100 victims of m.Mine are from other code or another network than the newest and left out"]


def cells_of(*records: dict[str, Any], current: tuple[str, ...] = ()) -> tuple[set[str], list[str]]:
    """The cells that are shown, and what is said."""
    cells, said = cells_of_one_code(records, current)
    return set(cells), said


def of(config: dict[str, Any], *args: Any, own: dict[str, str], **others: Any) -> dict[str, Any]:
    made = record(*args, **others)
    return made | {"config": {"attack": {"class": "IDLG"}, "defense": {"class": "m.Mine"}} | config, "own_code": own}


def test_cells_of_an_own_class_show_its_newest_code() -> None:
    weak, strong = {"defense": {"class": "m.Mine", "k": 0.1}}, {"defense": {"class": "m.Mine", "k": 0.9}}
    first, second = {"m.Mine": "1"}, {"m.Mine": "2"}
    old = of(weak, 1, 0, ".abc", cell="weak", own=first)
    new = of(strong, 2, 0, ".ab", cell="strong", code="b", own=second)
    said = ["3 victims of m.Mine are from other code or another network than the newest and left out"]
    assert cells_of(old, new) == ({"strong"}, said)
    assert cells_of(old, new, current=("001",))[0] == {"weak"}
    again = of(weak, 3, 0, ".abc", cell="weak", code="b", own=second)
    assert cells_of(old, new, again) == ({"weak", "strong"}, [])


@pytest.mark.parametrize(
    "config",
    [
        {"attack": {"class": "DLG"}},
        {"model": {"class": "MLP"}},
        {"defense": {"class": "Compose", "defenses": [{"class": "m.Mine"}]}},
        {"defense": {"class": "m.Mine", "file": "a"}},
    ],
)
def test_an_edited_class_is_old_beside_whatever_it_was_attacked_with(config: dict[str, Any]) -> None:
    """A defense that was edited between two attacks: what the first one found is not of the same defense."""
    old = of({}, 1, 0, ".a", cell="1", code="a", own={"m.Mine": "1"})
    new = of(config, 2, 0, ".a", cell="2", code="b", own={"m.Mine": "2"})
    assert cells_of(old, new)[0] == {"2"}
    same = of(config, 2, 0, ".a", cell="2", code="b", own={"m.Mine": "1"})
    assert cells_of(old, same) == ({"1", "2"}, [])  # another attack is other code, the class is the same


def test_of_two_own_classes_each_shows_its_newest_code() -> None:
    old = of({}, 1, 0, ".a", cell="1", own={"m.Mine": "1", "n.Net": "1"})
    new = of({}, 2, 0, ".a", cell="2", own={"m.Mine": "1", "n.Net": "2"})
    other = of({}, 3, 0, ".a", cell="3", own={"n.Other": "1"})
    assert cells_of(old, new, other)[0] == {"2", "3"}


def test_what_an_own_class_did_is_told_apart() -> None:
    old, new = record(1, 0, ".abcd"), record(2, 0, ".ab") | {"behavior_sha256": "x"}
    said = ["2 victims of m.Mine are from other code or another network than the newest and left out"]
    assert shown(old, new) == ({0: 2, 1: 2}, said)
