"""Which GPU each of several workers on one machine gets. No torch."""

import os
import re
import subprocess
from itertools import cycle, islice

VISIBLE = "CUDA_VISIBLE_DEVICES"
NO_DEVICE_NAMES = ("", "-1", "none", "NoDevFiles")


def devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Unless that variable is set, these are the driver's unique names: nvidia-smi and CUDA number
    GPUs in different orders. A GPU that is partitioned (MIG) is represented by its partitions.
    """
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return _visible_names(visible)

    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return _listed_names(listing)


def _visible_names(visible: str) -> list[str]:
    """The names in the variable, as CUDA reads it: the first invalid one ends the list."""
    names = []
    for entry in visible.split(","):
        name = entry.strip()
        if name in NO_DEVICE_NAMES:
            break
        names.append(name)
    return names


def _listed_names(listing: str) -> list[str]:
    """The names in the output of `nvidia-smi -L`, which lists a GPU before its partitions."""
    names: list[str] = []
    gpu = ""
    for name in re.findall(r"UUID: ((?:GPU|MIG)-[^)\s]+)", listing):
        if name.startswith("GPU"):
            gpu = name
        elif gpu in names:
            names.remove(gpu)
        names.append(name)
    return names


def worker_environments(workers: int) -> list[dict[str, str]]:
    """The environment variables of each worker; none for a single one.

    Several workers get one GPU each, or share them in turn if there are fewer.
    """
    names = devices()
    if workers == 1 or not names:
        return [{} for _ in range(workers)]
    return [{VISIBLE: name} for name in islice(cycle(names), workers)]
