"""Where a result comes from."""

import time
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from subprocess import DEVNULL, CalledProcessError, check_output
from typing import Any

import torch

from benchmark.jobs.blocks import Workbench
from datamodules import PrivateData

_VERSIONS = ("torch", "torchvision", "lightning", "torchmetrics", "lpips", "numpy", "scipy")


def provenance(bench: Workbench, data: PrivateData) -> dict[str, Any]:
    """Where a result on a data set comes from."""
    device = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "cpu"
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "data_notes": data.notes,
    }


@cache
def versions() -> dict[str, str]:
    """The versions of Python and of what numbers depend on."""
    return {"python": python_version()} | {name: version(name) for name in _VERSIONS}


@cache
def commit() -> str | None:
    """The commit of this source tree, with a plus where files differ from it."""
    here = Path(__file__).resolve().parents[2]
    git = partial(check_output, cwd=here, stderr=DEVNULL, text=True)
    try:
        if Path(git(["git", "rev-parse", "--show-toplevel"]).strip()).resolve() != here:
            return None  # installed below somebody's repository, whose commit says nothing of this code
        head = git(["git", "rev-parse", "--short=12", "HEAD"]).strip()
        changed = git(["git", "status", "--porcelain", "-uno"]).strip()
    except (OSError, CalledProcessError):
        return None
    return head + ("+" if changed else "")
