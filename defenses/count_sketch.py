from collections.abc import Sequence
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from defenses.base import Defense, KnownDefense, Update, all_kept, joined, parted


class CountSketch(Defense):
    """Shares a Count-Sketch of the update, as FetchSGD does (Rothchild et al. 2020, arXiv 2007.07682).

    Each of R hash rows puts every entry, with a random sign, into one of W buckets, and a client sends the sums of the
    R W buckets. Shared is the server's estimate of the update: of each entry the mean over the rows of its bucket with
    its sign, which is right on average. The mean is linear, and tells the sketch again; FetchSGD's median would keep
    from an attacker a part of what the server gets. He knows the hash functions, and so matches the estimates of the
    same sketch of his own gradient, of which all equations are linear.

    The entries are those of the tensors in the order of their names, each in its own order. The rows are drawn one
    after the other by ``torch.Generator().manual_seed(seed)``: of each first the buckets, then the signs, by randint.

    Args:
        compression: entries of the update for each number of the sketch, at least 1; with 1 the update itself is sent,
            which is no defense.
        rows: R, at least 1; less where there are fewer numbers than rows.
        seed: of the hash functions, which are public.
    """

    def __init__(self, compression: float = 10.0, rows: int = 5, seed: int = 0) -> None:
        if not 1 <= compression < float("inf"):
            raise ValueError(f"compression is {compression}, but must be at least 1 and finite")
        for name, value, least in (("rows", rows, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name} is {value}, but must be at least {least}")
        self.compression = compression
        self.rows = rows
        self.seed = seed

    def size(self, entries: int) -> tuple[int, int]:
        """R and W of a sketch of so many entries: together no more than their number over the compression, or 1."""
        numbers = max(1, int(entries / self.compression))
        rows = min(self.rows, numbers)
        return rows, numbers // rows

    def protect(self, update: Update, generators: Sequence[torch.Generator]) -> Update:
        """On the CPU, since sums on a GPU are in no fixed order and differ from call to call."""
        if self.compression == 1:
            return update
        shared = self._estimate({name: value.cpu() for name, value in update.items()})
        return {name: value.to(update[name].device) for name, value in shared.items()}

    def bytes_sent(self, shared: Update) -> Tensor:
        if self.compression == 1:
            return super().bytes_sent(shared)
        one = next(iter(shared.values()))
        numbers = prod(self.size(sum(value[0].numel() for value in shared.values())))
        return torch.full((len(one),), numbers * one.element_size())

    def known_to_attacker(self) -> KnownDefense:
        if self.compression == 1:
            return KnownDefense()
        return KnownDefense(simulate=lambda dummy, observed: self._estimate(dummy), kept=all_kept)

    def _estimate(self, update: Update) -> Update:
        entries = joined(update)[""]
        rows, width = self.size(entries.shape[1])
        buckets, signs = hashes(entries.shape[1], rows, width, self.seed, entries.device)
        return parted({"": estimate(entries, buckets, signs, width)}, update)


@lru_cache(maxsize=2)
def hashes(entries: int, rows: int, width: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The bucket of each entry, from 0 to W - 1, and its sign, 1 or -1, in each row, ``[R, D]``, int32 and int8."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        (torch.randint(width, (entries,), generator=generator), torch.randint(2, (entries,), generator=generator))
        for _ in range(rows)
    ]
    buckets, coins = (torch.stack(each) for each in zip(*drawn, strict=True))
    return buckets.to(device, torch.int32), (2 * coins - 1).to(device, torch.int8)


def sketch(entries: Tensor, buckets: Tensor, signs: Tensor, width: int) -> Tensor:
    """The sums of the buckets of one row, ``[V, W]``, of entries ``[V, D]``."""
    return entries.new_zeros(len(entries), width).index_add(1, buckets, entries * signs)


def estimate(entries: Tensor, buckets: Tensor, signs: Tensor, width: int) -> Tensor:
    """The mean over the rows of what the sketch of entries ``[V, D]`` says of each, ``[V, D]``."""
    total = torch.zeros_like(entries)
    for places, sign in zip(buckets, signs, strict=True):
        total = total + sketch(entries, places, sign, width).index_select(1, places) * sign
    return total / len(buckets)
