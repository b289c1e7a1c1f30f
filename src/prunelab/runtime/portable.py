"""The same bits on every x86-64 processor that has AVX2, of whichever vendor.

Torch and the libraries within it choose code by the processor: other widths of vectors add in
another order, and so round otherwise. Here they are held to what all those processors have. How a
computation avoids operators that differ all the same stands in `exact`.
"""

import ctypes
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from prunelab.core.errors import InputError
from prunelab.core.lifecycle import OPENBLAS_VARIABLES
from prunelab.core.processor import AVX2_MISSING, NATIVE_HINT, has_portable_bits

# Each library reads its variable once, when it computes for the first time.
VARIABLES = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own operators
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    # Products of matrices, exp and the like. MKL's AVX2 differs between Intel and AMD.
    "MKL_CBWR": "COMPATIBLE",
}
MKL_BRANCH, MKL_COMPATIBLE = 1, 3  # MKL_CBWR_BRANCH and MKL_CBWR_COMPATIBLE of mkl_types.h
AVX2_CHANNELS = 8  # oneDNN keeps channels in blocks that fill a vector, so 16 with AVX-512


def pin() -> bool:
    """Hold torch to portable bits, for as long as this process and its forks live.

    Packages may have been loaded before, but nothing may have been computed. The variables of this
    process are the same afterwards: programs that it starts choose for themselves. NumPy and SciPy
    must have been loaded with the variables that `lifecycle` sets.

    Returns:
        Whether bits are portable now: False on processors other than x86-64, which have none.

    Raises:
        InputError: if a library does not obey, because it has computed already, because NumPy was
            loaded without its variables, because the processor has no AVX2, or because torch was
            built otherwise.
    """
    if not has_portable_bits():
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
    if not torch.cpu._is_avx2_supported():
        return [AVX2_MISSING]  # and nothing is asked that has no code for such a processor

    computed = {
        "torch": torch.backends.cpu.get_cpu_capability() == "AVX2",
        "MKL": _mkl_branch() == MKL_COMPATIBLE,
        "oneDNN": _onednn_block() == AVX2_CHANNELS,
    }
    loaded = {"NumPy": _numpy_obeys(), "OpenBLAS": _openblas_obeys()}
    if all(computed.values()) and all(loaded.values()):
        return []

    refusals = []
    for libraries, reason in (
        (computed, "has computed before, or was built otherwise than the locked one"),
        (loaded, "was loaded before prunelab could choose its code"),
    ):
        names = ", ".join(name for name, obeys in libraries.items() if not obeys)
        if names:
            refusals.append(
                f"runtime.bits: portable cannot be had in this process: {names} {reason}; start "
                f"it again, {NATIVE_HINT}"
            )
    return refusals


def _numpy_obeys() -> bool:
    """Whether NumPy uses code for AVX2, and none for AVX-512."""
    core = np._core if hasattr(np, "_core") else np.core
    features = core._multiarray_umath.__cpu_features__
    used = [name for name in core._multiarray_umath.__cpu_dispatch__ if features[name]]

    # NumPy calls it X86_V3 and X86_V4 from version 2.4 on.
    wider = [name for name in used if name.startswith("AVX512") or name == "X86_V4"]
    return not wider and bool({"X86_V3", "AVX2"} & set(used))


def _openblas_obeys() -> bool:
    """Whether every OpenBLAS of this process has the chosen code and number of threads."""
    kind, threads = OPENBLAS_VARIABLES.values()
    # It comes with scikit-learn, and is loaded where bits are chosen alone.
    for pool in importlib.import_module("threadpoolctl").threadpool_info():
        chosen = (pool.get("architecture"), str(pool["num_threads"]))
        if pool["internal_api"] == "openblas" and chosen != (kind, threads):
            return False
    return True


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
