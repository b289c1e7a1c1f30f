"""Device, precision, threads, determinism, seeds, and a record of the environment.

Nothing here knows of experiments.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunelab.config.params import Runtime
from prunelab.core.errors import InputError
from prunelab.core.packages import installed_versions
from prunelab.core.plugins import PACKAGE
from prunelab.core.processor import has_portable_bits
from prunelab.runtime.portable import pin
from prunelab.runtime.threads import set_threads

TEXT_PACKAGES = ("transformers", "tokenizers")  # only with the extra [text]
FINGERPRINT_PACKAGES = (
    "torch",
    "torchvision",
    "torch-pruning",
    "torchprofile",
    "numpy",
    "scikit-learn",
    "dvc",
    "pillow",
    *TEXT_PACKAGES,
)

# What portable bits do not depend on.
INDIFFERENT = ("c_library", "cpu_capability", "device", "python")


@dataclass(frozen=True)
class Execution:
    """Where tensors live and how networks run; `autocast_dtype` None means plain float32.

    `cuda_graphs` lets training record its steps and replay them. `portable` says that what the CPU
    computes has the same bits on other processors.
    """

    device: torch.device
    autocast_dtype: torch.dtype | None
    memory_format: torch.memory_format
    cuda_graphs: bool = False
    portable: bool = False

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which a network runs."""
        return torch.autocast(
            self.device.type,
            dtype=self.autocast_dtype or torch.bfloat16,
            enabled=self.autocast_dtype is not None,
        )

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move a network to the device and into the memory format."""
        return model.to(self.device).to(memory_format=self.memory_format)


def configure(runtime: Runtime) -> Execution:
    """Set bits, threads and determinism for this process and choose where to compute.

    Raises:
        InputError: if the parameters demand a GPU and there is none, or portable bits or threads
            that cannot be had.
    """
    portable = runtime.bits == "portable" and pin()
    set_threads(runtime.threads)
    _set_determinism(runtime.deterministic)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32; bf16 is there for less

    device = choose_device(runtime.device)
    autocast_dtype = None
    if takes_bf16(runtime, device):
        autocast_dtype = torch.bfloat16

    memory_format = torch.contiguous_format
    if runtime.channels_last:
        memory_format = torch.channels_last
    cuda_graphs = device.type == "cuda" and runtime.cuda_graphs == "auto"
    return Execution(device, autocast_dtype, memory_format, cuda_graphs, portable)


def _set_determinism(deterministic: bool) -> None:
    debug_mode = "default"
    if deterministic:
        debug_mode = "error"
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts

    # This does what use_deterministic_algorithms does, without importing torch's compiler, which
    # would cost every stage 2 s.
    torch.set_deterministic_debug_mode(debug_mode)
    # Torch would also fill new tensors with NaN to expose reads before the first write. There are
    # none, and a step of the default network would take 6 % longer.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic


def choose_device(name: str, option: str = "runtime.device") -> torch.device:
    """The device for `cuda`, `cpu` or `auto`; `option` is where the name comes from.

    Raises:
        InputError: if it is `cuda` and there is no GPU.
    """
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if name == "cuda":
        raise InputError(
            f"{option}: cuda needs a GPU, but torch sees no GPU; valid here: auto, cpu"
        )
    return torch.device("cpu")


def configure_native(runtime: Runtime) -> Execution:
    """Like `configure`, but in the processor's own bits: for what rests on a clock.

    Raises:
        InputError: if the parameters demand a GPU and there is none.
    """
    return configure(runtime.model_copy(update={"bits": "native"}))


def takes_bf16(runtime: Runtime, device: torch.device) -> bool:
    """Whether networks run in bfloat16 on a device.

    Raises:
        InputError: for bfloat16 on a CPU in portable bits. Processors with AVX-512 take other code
            for it than those without, and all are several times slower than with float32.
    """
    portable = runtime.bits == "portable" and has_portable_bits()
    on_portable_cpu = portable and device.type == "cpu"
    if runtime.precision == "bf16" and on_portable_cpu:
        raise InputError(
            "runtime.precision: bf16 has no portable bits on a CPU; valid here: auto, fp32; or set "
            "runtime.bits to native"
        )
    if runtime.precision == "auto":
        return not on_portable_cpu and has_fast_bf16(device)
    return runtime.precision == "bf16"


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively (emulation is slower than float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Torch has no public function that asks an x86 CPU for AVX512-BF16 or AMX.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def seed_for(*parts: int | str) -> int:
    """A seed of 63 bits made of several labels; different labels give unrelated streams."""
    label = "/".join(map(str, parts))
    digest = hashlib.sha256(label.encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A random generator on the CPU, seeded by labels as in `seed_for`."""
    return torch.Generator().manual_seed(seed_for(*parts))


def fingerprint(execution: Execution) -> dict[str, Any]:
    """What the numbers were computed with: packages, device, precision and threads."""
    device_name, cuda = _cpu_name(), None
    if execution.device.type == "cuda":
        device_name, cuda = torch.cuda.get_device_name(), torch.version.cuda

    precision = "fp32"
    if execution.autocast_dtype:
        precision = "bf16"

    bits = "native"
    if execution.portable:
        bits = "portable"

    return {
        "bits": bits,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "c_library": " ".join(platform.libc_ver()).strip() or None,
        "device": device_name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": cuda,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "packages": installed_versions(FINGERPRINT_PACKAGES),
    }


def decisive(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a fingerprint on which the bits of results depend.

    Portable bits of a CPU are the same on other processors, with other C libraries, and for other
    versions of Python.
    """
    if environment.get("bits") != "portable" or environment.get("cuda") is not None:
        return dict(environment)
    return {key: value for key, value in environment.items() if key not in INDIFFERENT}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []

    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def code_digest() -> str:
    """A hash of the source files of this package and of plugins that are loaded so far.

    A checkpoint keeps it: an epoch that other code computed must not be resumed.
    """
    modules = [sys.modules["__main__"]]  # a stage
    for name, module in sys.modules.items():
        if name.split(".")[0] in ("prunelab", PACKAGE):
            modules.append(module)
    files = {getattr(module, "__file__", None) for module in modules}

    digest = hashlib.sha256(torch.__version__.encode())
    for file in sorted(filter(None, files)):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()
