"""How to compute: device, precision, threads, determinism, seeds, and a record of the environment. No experiments."""

import hashlib
import os
import platform
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from prunelab.config.params import Runtime
from prunelab.core.errors import InputError

FINGERPRINT_PACKAGES = (
    *(
        "torch",
        "torchvision",
        "torch-pruning",
        "torchprofile",
        "numpy",
        "scikit-learn",
        "dvc",
        "pillow",
    ),
    *("transformers", "tokenizers"),  # only with the extra [text]
)


@dataclass(frozen=True)
class Execution:
    """Where tensors live and how networks run; `autocast_dtype` None means plain float32."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    memory_format: torch.memory_format

    def autocast(self) -> AbstractContextManager[None]:
        enabled = self.autocast_dtype is not None
        return torch.autocast(
            self.device.type, dtype=self.autocast_dtype or torch.bfloat16, enabled=enabled
        )

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        return model.to(self.device).to(memory_format=self.memory_format)


def configure(runtime: Runtime) -> Execution:
    """Set threads and determinism for this process and say where to compute.

    Raises:
        InputError: if a GPU is asked for and there is none.
    """
    torch.set_num_threads(runtime.threads)
    if runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    # What use_deterministic_algorithms does, less its import of torch's compiler: 2 s for every stage.
    torch.set_deterministic_debug_mode("error" if runtime.deterministic else "default")
    # It would also fill every new tensor with NaN, lest one is read before it is written: none is, and a step of the
    # default network takes 6 % longer.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not runtime.deterministic
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32; who wants less asks for bf16
    device = _device(runtime.device)
    bf16 = runtime.precision == "bf16" or (runtime.precision == "auto" and has_fast_bf16(device))
    memory_format = torch.channels_last if runtime.channels_last else torch.contiguous_format
    return Execution(device, torch.bfloat16 if bf16 else None, memory_format)


def _device(asked: str) -> torch.device:
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "runtime.device: cuda was asked for, but torch sees no GPU; valid here: auto, cpu"
        )
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively (emulation is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # The one public-enough question a CPU build answers: AVX512-BF16 and AMX on x86.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def seed_for(*parts: int | str) -> int:
    """One 63-bit seed out of several labels: different labels give unrelated streams."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for(*parts))


def fingerprint(execution: Execution) -> dict[str, Any]:
    """What the numbers were made on: packages, device, precision and threads."""
    device = torch.cuda.get_device_name() if execution.device.type == "cuda" else _cpu_name()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda if execution.device.type == "cuda" else None,
        "precision": "bf16" if execution.autocast_dtype else "fp32",
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "packages": {name: found for name in FINGERPRINT_PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def code_digest() -> str:
    """A hash of this package's source files loaded so far: an epoch computed by other code must not be resumed."""
    ours = [module for name, module in sys.modules.items() if name.split(".")[0] == "prunelab"]
    files = {
        getattr(module, "__file__", None) for module in [*ours, sys.modules["__main__"]]
    }  # a stage is __main__
    digest = hashlib.sha256(torch.__version__.encode())
    for file in sorted(filter(None, files)):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()
