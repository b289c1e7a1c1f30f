"""What each of several workers on one machine is given: a GPU, and threads that let others work. Imports no torch."""

import os
import re
import subprocess
from itertools import cycle, islice

VISIBLE = "CUDA_VISIBLE_DEVICES"
# By default a waiting thread of OpenMP spins on its core, for which the other workers' threads then wait.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}


def devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; empty where there is none.

    Unless that variable says so itself they are the driver's unique names, since numbers mean one order to nvidia-smi
    and another to CUDA; of a GPU that is cut up (MIG), its parts.
    """
    if (visible := os.environ.get(VISIBLE)) is not None:
        named = [name.strip() for name in visible.split(",")]
        # As CUDA reads it: what follows the first name that is none does not count.
        ends = (
            number for number, name in enumerate(named) if name in ("", "-1", "none", "NoDevFiles")
        )
        return named[: next(ends, len(named))]
    try:
        told = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    found: list[str] = []
    whole = ""
    for name in re.findall(r"UUID: ((?:GPU|MIG)-[^)\s]+)", told):
        if name.startswith("GPU"):
            whole = name
        elif whole in found:
            found.remove(whole)
        found.append(name)
    return found


def worker_environments(workers: int) -> list[dict[str, str]]:
    """The environment variables of so many workers: none for a single one; otherwise one GPU, in turn where
    there are fewer GPUs, and threads that sleep while they wait."""
    if workers == 1:
        return [{}]
    names = devices()
    gpus = [{VISIBLE: name} for name in islice(cycle(names), workers)] if names else [{}] * workers
    return [PATIENT | gpu for gpu in gpus]
