"""The table of a training: how its rows are shown, and what stands beside them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmark.boards.grid import Grid
from benchmark.boards.grid import as_csv as grid_as_csv
from benchmark.boards.outcome import listed
from benchmark.boards.template import render
from benchmark.store.store import write_whole
from benchmark.training.rows import KEYS, TEST, VALIDATION, Row, scenario_of

NOTE = (
    "Accuracy and loss are of the test images after the last round, as means over n seeds, with a 95 % t interval "
    "over seeds, cut to what is possible; seeds that agree are taken to vary by about a third of a test image, where "
    "the number of these is known. Rate is the learning rate. The "
    "difference is to no defense, in percentage points, paired by seed. Changed are the shares of the clients' "
    "updates, and of their entries, that the defense changed by more than rounding: a defense that changed none did "
    "not act, and its row is void: it says nothing about what the defense costs. A run that ends at or below the "
    "accuracy of always predicting the most frequent class has collapsed; it counts with its accuracy. A diverged run"
    " (NaN or infinity) counts as accuracy 0. Where a run without a defense collapsed or diverged, no difference is "
    "given."
)

CHOSEN_ON_TEST = (
    "Rates in records of an older version are the best on the very test images and seeds that are reported: those "
    "accuracies are too high, and differences between them are uncertain by as much."
)

OLDER = (
    "Records of an older version do not say whether a defense acted or a run collapsed: there, a defense did not act "
    "where accuracy and loss are those of no defense at every test of every seed, and a run has collapsed where it "
    "ends no better than an untrained network of its scenario."
)


ONE_POINT = 0.01
"""Of accuracy, as a share."""

SMALL, LARGE, OPEN = "less than a point", "more than a point", "open"
"""What a defense costs where the whole interval of the cost is on one side of :data:`ONE_POINT`, or not."""

COSTS = (
    "Sent is what a client sends in a round, in the coding that suits its defense; ms / client is how long it works "
    "for that."
)


def note(table: list[Row]) -> str:
    """What the columns of a table mean, and what its rows cannot carry."""
    costs = [COSTS] if any(one["bytes"] is not None for one in table) else []
    older = [OLDER] if any(one["older"] for one in table) else []
    guaranteed = dict.fromkeys(one["privacy"] for one in table if one["privacy"])
    return " ".join([NOTE, *costs, *how_chosen(table), *below_a_defense(table), *one_rate(table), *older, *guaranteed])


def how_chosen(table: list[Row]) -> list[str]:
    """Sentences on how the learning rates were chosen; none where there was no choice."""
    said, seeds = [], max((one["tuning_seeds"] for one in table), default=0)
    if seeds:
        two = f"the two best on validation images with {seeds}, and the better of them"
        then = two if seeds > 1 else "and the best on validation images"
        said.append(
            f"Where several rates were tried, each was trained with one tuning seed, {then} with the n seeds reported "
            "here; validation images belong to no client and are not test images, and the tuning seeds are not "
            "reported."
        )
    return said + [CHOSEN_ON_TEST] * any(one["rate_chosen_on"] == TEST for one in table)


def below_a_defense(table: list[Row]) -> list[str]:
    """A sentence on the controls that end below a defense at another learning rate, if there are any: their own may be
    badly chosen."""
    said, seeds = [], set[int]()
    for control, *others in boards(table).values():  # no defense is first, if it is there
        if control["config"]["defense"] is None and control["rate_chosen_on"] == VALIDATION:
            above = [one for one in others if one["learning_rate"] != control["learning_rate"]]
            above = [one for one in above if one["accuracy"] > control["accuracy"]]
            if above:
                above.sort(key=lambda one: -float(one["accuracy"]))
                with_one = [f"{at_rate(one)} with {one['defense']}" for one in above]
                said.append(f"{network_of(control)} ({at_rate(control)}, but {listed(with_one)})")
                seeds.add(control["tuning_seeds"])
    if not said:
        return []
    by = "one tuning seed" if seeds == {1} else f"at most {max(seeds)} tuning seeds"
    return [
        f"Without a defense these networks end below what they reach with one at another rate: {'; '.join(said)}. The "
        f"rate of no defense was chosen with {by} and may not be its best there: then defenses cost more than these "
        "differences say."
    ]


def one_rate(table: list[Row]) -> list[str]:
    """A sentence on the networks for which a single learning rate was tried, whatever the defense, if there are any."""
    several = [board for board in boards(table).values() if len(board) > 1]
    single = [network_of(board[0]) for board in several if len({*rates_of(board)}) == 1]
    if not single:
        return []
    return [
        f"A single learning rate was tried for {listed(single)}, with and without a defense: one that makes updates "
        "smaller or larger, as a mask or clipping does, may do better at another, and so cost less than this says."
    ]


def rates_of(board: list[Row]) -> list[str]:
    """All learning rates that were tried on a board."""
    return [rate for one in board for rate in one["learning_rates"].split() or [f"{one['learning_rate']:g}"]]


def at_rate(found: Row) -> str:
    """The accuracy of a row and its learning rate, for a sentence."""
    return f"{100 * found['accuracy']:.1f} % at rate {found['learning_rate']:g}"


def data_of(found: Row) -> str:
    """The class of a row's data."""
    return str(found["data"]).partition("(")[0]


def network(found: Row) -> str:
    """What was trained, and how."""
    split = "" if found["split"] == "iid" else f", {found['split']}"
    return f"{found['model'].partition('(')[0]} {found['algorithm']}{split}"


def network_of(found: Row) -> str:
    """What was trained, on which data, and how."""
    return f"{network(found)} on {data_of(found)}"


def heading(found: Row) -> str:
    """A row's scenario, for people."""
    clients = f"{found['clients']} clients"
    if found["clients_per_round"] < found["clients"]:
        clients += f", {found['clients_per_round']} in a round"
    epochs = f", {found['local_epochs']} local epochs" if (found["local_epochs"] or 1) > 1 else ""
    kind, _, rises = (found["decay"] or "").partition(" ")
    falls = f", {kind} decay{rises and ' '}{rises}" if kind else ""
    momentum = f", server momentum {found['server_momentum']:g}" if found["server_momentum"] else ""
    protected = ", BatchNorm protected" if found["batch_norm"] == "include" else ""
    return (
        f"{found['data']}, {found['model']}: {found['algorithm']}, {clients} ({found['split']}), "
        f"{found['rounds']} rounds{epochs}, batches of {found['batch_size']}{falls}{momentum}{protected}"
    )


def boards(table: list[Row]) -> dict[str, list[Row]]:
    """The rows of each scenario, under its heading."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for one in table:
        found.setdefault(scenario_of(one), []).append(one)
    named: dict[str, list[Row]] = {}
    for board in found.values():
        title = heading(board[0])
        caps = [f"{key} {board[0][key]}" for key in KEYS if key.endswith("_images") and board[0][key]]
        named[", ".join([title, *caps])] = board
    return named


def changed(share: float | None) -> str:
    """A share in percent that is not rounded to none or to all; nothing where it is unknown."""
    if share is None:
        return ""
    if 0 < share < 5e-4:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.3g} %"


def size(count: float) -> str:
    """A number of bytes, for people."""
    return f"{count / 1000:.3g} kB" if count < 1e6 else f"{count / 1e6:.3g} MB"


def rate(found: Row) -> str:
    """The learning rate, and whether a larger or smaller one than those tried may be better."""
    own, tried = f"{found['learning_rate']:g}", found["learning_rates"].split()
    end = {tried[0]: " (smallest tried)", tried[-1]: " (largest tried)"} if len(tried) > 1 else {}
    return own + end.get(own, "")


def interval(found: Row, key: str, scale: float, digits: int, sign: str = "") -> str:
    """An interval, as it stands behind its mean; nothing where there is none."""
    ends = found[f"{key}_low"], found[f"{key}_high"]
    return "" if None in ends else f" ({' to '.join(f'{scale * end:{sign}z.{digits}f}' for end in ends)})"


def difference(found: Row) -> str:
    """The difference to no defense in percentage points, or why it would say nothing."""
    if found["difference"] is None:
        return f"void: {found['void']}" if found["void"] else ""
    return f"{100 * found['difference']:+z.2f}{interval(found, 'difference', 100, 2, '+')}"


def costs(found: Row) -> str:
    """Whether a defense costs less or more than a point of accuracy: :data:`SMALL`, :data:`LARGE` or :data:`OPEN`."""
    gained, lost = found["difference_high"], found["difference_low"]
    if lost is None:
        return OPEN
    return LARGE if -gained > ONE_POINT else SMALL if -lost <= ONE_POINT else OPEN


COLUMNS: dict[str, Callable[[Row], str]] = {
    "defense": lambda found: found["defense"],
    "rate": lambda found: rate(found) + (" (on test)" if found["rate_chosen_on"] == TEST else ""),
    "n": lambda found: str(found["seeds"]),
    "accuracy %": lambda found: f"{100 * found['accuracy']:.2f}{interval(found, 'accuracy', 100, 2)}",
    "difference": difference,
    "loss": lambda found: "" if found["loss"] is None else f"{found['loss']:.3f}{interval(found, 'loss', 1, 3)}",
    "clients changed": lambda found: changed(found["clients_changed"]),
    "entries changed": lambda found: changed(found["entries_changed"]),
    "collapsed": lambda found: str(found["collapsed"] or ""),
    "diverged": lambda found: str(found["diverged"] or ""),
    "sent": lambda found: "" if found["bytes"] is None else size(found["bytes"]),
    "ms / client": lambda f: "" if f["client_seconds"] is None else f"{1000 * f['client_seconds']:.3g}",
    "epsilon": lambda found: "" if found["epsilon"] is None else f"{found['epsilon']:.3g}",
    "s / run": lambda found: f"{found['seconds']:.1f}",
}
"""The text of a row in each column."""


def as_csv(table: list[Row]) -> str:
    """The table for programs, with six significant digits."""
    values = ([one[key] for key in KEYS] for one in table)
    return grid_as_csv(KEYS, ([f"{v:.6g}" if isinstance(v, float) else v for v in of_row] for of_row in values))


def grids(table: list[Row]) -> list[Grid]:
    """The table for people, of each scenario."""
    found = []
    for title, board in boards(table).items():
        columns = {name: cells for name, text in COLUMNS.items() if any(cells := [text(one) for one in board])}
        found.append(Grid(list(columns), list(map(list, zip(*columns.values(), strict=True))), {"defense"}, title))
    return found


def as_markdown(table: list[Row], title: str, left_out: Sequence[str] = ()) -> str:
    """The table as a page.

    Args:
        table: its rows.
        title: of the page.
        left_out: sentences on what stands in none of them.
    """
    said = " ".join([note(table), *(f"{sentence}." for sentence in left_out)])
    return render("training/training.md.j2", title=title, grids=grids(table), note=said)


def write(folder: Path, table: list[Row], title: str, left_out: Sequence[str] = ()) -> None:
    """Writes training.csv and training.md of a folder; the arguments are those of :func:`as_markdown`."""
    write_whole(folder / "training.csv", as_csv(table).encode())
    write_whole(folder / "training.md", as_markdown(table, title, left_out).encode())
