"""Energy, where the machine counts it: joules of a GPU by NVML, of a processor's packages by RAPL."""

from collections.abc import Callable
from pathlib import Path

import torch

from prunelab.benchmark.latency import Runnable, Timer

Joules = Callable[[], float]  # since some moment; only differences mean something
RAPL = Path("/sys/class/powercap")
AT_LEAST_S = 2.0  # counters are read in steps, and a short window sees none


def counter(device: torch.device, powercap: Path = RAPL) -> Joules | str:
    """A counter of joules for what computes, or why there is none."""
    return _nvml(device) if device.type == "cuda" else _rapl(powercap)


def _nvml(device: torch.device) -> Joules | str:
    try:
        import pynvml
    except ImportError:
        return "not available: pynvml is not installed (pip install nvidia-ml-py)"
    try:
        pynvml.nvmlInit()
        identity = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(identity)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        return f"not available: {error}"
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000


def _rapl(powercap: Path) -> Joules | str:
    zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)
    if not zones:
        return "not available: this machine counts no energy that a process may read (RAPL)"
    try:
        packages = [_Zone(zone) for zone in zones]
    except OSError as error:
        return f"not available: {error.strerror}: {error.filename}"
    return lambda: sum(package.joules() for package in packages)


class _Zone:
    """A counter of microjoules that starts again at 0 beyond its range."""

    def __init__(self, folder: Path):
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last, self._turns = self._read(), 0

    def _read(self) -> int:
        return int(self._file.read_text())

    def joules(self) -> float:
        now = self._read()
        self._turns += now < self._last
        self._last = now
        return (self._turns * self._range + now) / 1e6


def per_call(call: Runnable, joules: Joules, timed: Timer, seconds: float = AT_LEAST_S) -> float:
    """Joules of one call, the idle machine's included, over at least so many seconds of calls."""
    call()
    before, calls, spent = joules(), 0, 0.0
    while calls == 0 or spent < seconds:
        spent += timed(call)
        calls += 1
    return (joules() - before) / calls
