"""How much memory an attack takes, measured, and how many victims fit into what is free."""

import gc
import resource
import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MARGIN = 0.8
"""Share of the free memory that is used: allocators lose some to fragments, and libraries have work space."""

PROBES = (2, 4)
"""Victims of the two short attacks whose difference is the memory of a victim."""


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch had on a GPU, or the most that this process ever held on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside and are still alive.

    It counts what is asked for, on any device, so that neither what an allocator keeps nor what other parts of the
    process do is taken for the attack's.

    Attributes:
        peak: most bytes alive at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(storage)
        self._alive += size
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self._alive -= size


def peak_bytes(work: Callable[[], Any]) -> int:
    """Most bytes of tensors alive at a time while ``work`` runs, of those that it makes."""
    gc.collect()
    with LiveTensors() as live:
        work()
    return live.peak


def bytes_per_victim(attack: Callable[[int], Any]) -> int:
    """Bytes that one more victim takes, from two runs of ``attack`` with a few victims."""
    few, more = (peak_bytes(partial(attack, count)) for count in PROBES)
    return max(1, (more - few) // (PROBES[1] - PROBES[0]))


def free_bytes(device: torch.device) -> int:
    """Memory that is free now: of the GPU, or of the machine within the limit of its control group."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = int(psutil.virtual_memory().available)
    limit, used = (read_number(control_group() / name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None:
        return available
    return max(0, min(available, limit - used + file_cache(control_group() / "memory.stat")))


def control_group() -> Path:
    """The folder in which the kernel tells of this process's control group, if it has one."""
    root = Path("/sys/fs/cgroup")
    try:
        own = root / Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
    except OSError:
        return root
    return own if (own / "memory.max").exists() else root


def file_cache(path: Path) -> int:
    """Bytes of files that the kernel keeps in memory as long as nobody wants it."""
    try:
        counts = dict(line.split() for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("inactive_file", 0))


def read_number(path: Path) -> int | None:
    """The number in a file of the kernel, None where there is no file or it says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
