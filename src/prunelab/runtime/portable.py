"""The same bits on every x86-64 processor that has AVX2, of whichever vendor.

Torch and the libraries within it choose code by the processor: other widths of vectors add in
another order, and so round otherwise. Here they are held to what all those processors have. How a
computation avoids operators that differ all the same stands in `exact`.
"""

import ctypes
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from prunelab.core.errors import InputError

# Each library reads its variable once, when it computes for the first time.
VARIABLES = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own operators
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    # Products of matrices, exp and the like. MKL's AVX2 differs between Intel and AMD.
    "MKL_CBWR": "COMPATIBLE",
}
MKL_BRANCH, MKL_COMPATIBLE = 1, 3  # MKL_CBWR_BRANCH and MKL_CBWR_COMPATIBLE of mkl_types.h
AVX2_CHANNELS = 8  # oneDNN keeps channels in blocks that fill a vector, so 16 with AVX-512
NATIVE_HINT = "or set runtime.bits to native, which gives each kind of processor bits of its own"


def exists_here() -> bool:
    """Whether processors of this architecture have portable bits; the others compute natively."""
    return platform.machine() in ("x86_64", "AMD64")


def pin() -> bool:
    """Hold torch to portable bits, for as long as this process and its forks live.

    Packages may have been loaded before, but nothing may have been computed. The variables of this
    process are the same afterwards: programs that it starts choose for themselves.

    Returns:
        Whether bits are portable now: False on processors other than x86-64, which have none.

    Raises:
        InputError: if a library does not obey, because it has computed already, because the
            processor lacks AVX2, or because torch was built otherwise.
    """
    if not exists_here():
        return False

    with _variables(VARIABLES):
        refusals = _refusals()
    if refusals:
        raise InputError(refusals)
    return True


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _refusals() -> list[str]:
    """Let each library read its variable, and return a line for each that does not obey."""
    chosen = {
        "torch": torch.backends.cpu.get_cpu_capability() == "AVX2",
        "MKL": _mkl_branch() == MKL_COMPATIBLE,
        "oneDNN": _onednn_block() == AVX2_CHANNELS,
    }
    if all(chosen.values()):
        return []

    if not torch.cpu._is_avx2_supported():
        return [f"runtime.bits: portable needs AVX2, which this processor lacks; {NATIVE_HINT}"]
    names = ", ".join(name for name, obeys in chosen.items() if not obeys)
    return [
        f"runtime.bits: portable cannot be had in this process: {names} has computed before, or "
        f"was built otherwise than the locked one; start anew, {NATIVE_HINT}"
    ]


def _mkl_branch() -> int | None:
    """Which code MKL takes, by its own numbers; None if it cannot be asked."""
    library = Path(torch.__file__).parent / "lib/libtorch_cpu.so"
    try:
        ask = ctypes.CDLL(str(library)).mkl_serv_cbwr_get
    except (OSError, AttributeError):
        return None
    return int(ask(MKL_BRANCH))


def _onednn_block() -> int | None:
    """How many channels oneDNN puts into a block; None if torch has no oneDNN.

    It does not tell what it chose. But it pads the weights of a convolution to whole blocks.
    """
    if not torch._C._has_mkldnn:
        return None

    channels = AVX2_CHANNELS
    weight = torch.zeros(channels, channels, 3, 3)
    padding, stride, dilation, groups = [1, 1], [1, 1], [1, 1], 1
    blocked = torch.ops.aten.mkldnn_reorder_conv2d_weight(
        weight.to_mkldnn(), padding, stride, dilation, groups, [1, channels, 8, 8]
    )
    return channels * int(torch.ops.mkldnn._nbytes(blocked)) // weight.nbytes
