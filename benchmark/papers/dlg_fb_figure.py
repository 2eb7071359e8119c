"""The figure of the page on DLG-FB: what each start gains over noise, and what it saves."""

from benchmark.boards.figure import as_png, blank
from benchmark.papers.clusters import Difference

SIDES = ("images found, points more", "evaluations, % more")
COLORS = {"DLG": "tab:orange", "IDLG": "tab:blue"}


def figure(found: dict[str, dict[str, tuple[list[Difference], list[Difference]]]], starts: list[str]) -> bytes:
    """A row of axes for each order of a data set: images found on the left, evaluations on the right.

    Args:
        found: by the name of the order and by the attack the gains and the savings of the starts, as shares.
        starts: their names, from top to bottom.
    """
    drawn = blank(8, 2.1 * len(found) + 0.5, 100)
    every_axes = drawn.subplots(len(found), len(SIDES), sharey=True, sharex="col", squeeze=False)
    lines = {}
    for row, (order, attacks) in zip(every_axes, found.items(), strict=True):
        for side, axes in enumerate(row):
            for place, (attack, differences) in enumerate(attacks.items()):
                values = [100 * one.value for one in differences[side]]
                lower = [100 * (one.value - one.low) if one.is_bounded else 0 for one in differences[side]]
                upper = [100 * (one.high - one.value) if one.is_bounded else 0 for one in differences[side]]
                heights = [height + 0.2 * (place - (len(attacks) - 1) / 2) for height in range(len(starts))]
                lines[attack] = axes.errorbar(
                    values, heights, xerr=[lower, upper], fmt="o", markersize=4, capsize=2, color=COLORS[attack]
                )
            axes.axvline(0, color="gray", linewidth=0.8)
            axes.set_title(order, fontsize=9)
            axes.tick_params(labelsize=8)
        row[0].set_yticks(range(len(starts)), starts)
    every_axes[0][0].invert_yaxis()
    for axes, caption in zip(every_axes[-1], SIDES, strict=True):
        axes.set_xlabel(f"{caption} than from noise", fontsize=9)
    drawn.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return as_png(drawn)
