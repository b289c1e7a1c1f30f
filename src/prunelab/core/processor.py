"""What the processor has, asked without loading a package that computes."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

NATIVE_HINT = "or set runtime.bits to native, which gives each kind of processor bits of its own"
AVX2_MISSING = (
    "runtime.bits: portable needs AVX2, which this processor does not have; use another machine, "
    f"{NATIVE_HINT}"
)


def has_portable_bits() -> bool:
    """Whether processors of this architecture have portable bits; the others compute natively."""
    return platform.machine() in ("x86_64", "AMD64")


def is_without_avx2() -> bool:
    """Whether this is an x86-64 processor without AVX2; False where the system does not say."""
    if not has_portable_bits():
        return False
    try:
        with CPUINFO.open() as file:
            for line in file:  # a machine with many cores takes long to write all of it
                name, _, flags = line.partition(":")
                if name.strip() == "flags":
                    return "avx2" not in flags.split()
    except OSError:
        return False
    return False
