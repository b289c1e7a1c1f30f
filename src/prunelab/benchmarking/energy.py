"""Energy, if the machine counts it: joules of a GPU by NVML, of processor packages by RAPL."""

from collections.abc import Callable
from pathlib import Path

import torch

from prunelab.benchmarking.backends import Runnable
from prunelab.benchmarking.latency import Timer

Joules = Callable[[], float]  # since some moment; only differences mean something

RAPL = Path("/sys/class/powercap")
MIN_SECONDS = 2.0  # counters advance in steps, and a short window may see none


def counter(device: torch.device, powercap: Path = RAPL) -> Joules | str:
    """A counter of joules for the device, or the reason why there is none."""
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
    # A zone with two colons is a part of a package, which the package counts already.
    zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)

    try:
        packages = [_Zone(zone) for zone in zones if _is_package(zone)]
        if not packages:
            return "not available: this machine counts no energy that a process may read (RAPL)"
    except OSError as error:
        return f"not available: {error.strerror}: {error.filename}"

    return lambda: sum(package.joules() for package in packages)


def _is_package(zone: Path) -> bool:
    """Whether a zone counts a processor package: `psys` of laptops counts them all once more."""
    return (zone / "name").read_text().startswith("package")


class _Zone:
    """A counter of microjoules that starts again at 0 beyond its range."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = self._read()
        self._overflows = 0

    def joules(self) -> float:
        now = self._read()
        if now < self._last:
            self._overflows += 1
        self._last = now
        return (self._overflows * self._range + now) / 1e6

    def _read(self) -> int:
        return int(self._file.read_text())


def per_call(call: Runnable, joules: Joules, timer: Timer, seconds: float = MIN_SECONDS) -> float:
    """The joules of one call, the idle machine's included.

    The mean of as many calls as take at least `seconds`; `timer` times them.
    """
    call()

    before = joules()
    calls, elapsed = 0, 0.0
    while calls == 0 or elapsed < seconds:
        elapsed += timer(call)
        calls += 1

    return (joules() - before) / calls
