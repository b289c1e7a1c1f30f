"""Which processes may share loaded packages, and the socket at which they meet.

The standard library alone is imported here: what a stage does before it finds a loaded process is
time lost.
"""

import hashlib
import json
import os
import resource
import stat
import sys
from pathlib import Path

from prunelab.core.lifecycle import bits_variables, sets_load_time_variable

# What type checkers take for true. To import `typing` would slow the start of every stage.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A socket to use instead of the default one, or `off`, which makes every stage start by itself.
ADDRESS_VARIABLE = "PRUNELAB_WARM"
OFF = "off"
PROTOCOL = 1

# The mode of a socket tells how far its process is. In both, its user alone may connect.
LOADING_MODE = 0o200
LOADED_MODE = 0o600

# What most stages import. Modules of prunelab are never loaded ahead: a stage runs the code that is
# in its working tree when it starts.
PRELOADED = (
    "numpy",
    "numpy.ctypeslib",
    "numpy.random",
    "torch",
    "torchprofile",
    "safetensors.numpy",
    "safetensors.torch",
    "pydantic.main",  # `pydantic` itself loads what is asked of it
    "pydantic.type_adapter",
    "pydantic.types",
    "ruamel.yaml",
    "typer",
    "tqdm",
    "psutil",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
)

# Variables that libraries read while they are loaded. CUDA is not among them: it is started by the
# stage itself.
LOAD_TIME_PREFIXES = (
    *("ATEN_", "DNNL_", "GLIBC_", "GOMP_", "GOTO_", "HOME", "JOBLIB_", "KMP_", "LANG", "LC_"),
    *("LD_", "LOKY_", "MALLOC_", "MATPLOTLIBRC", "MKL_", "MPL", "NPY_", "NUMEXPR_", "NUMPY_"),
    *("OMP_", "ONEDNN_", "OPENBLAS_", "PILLOW_", "PSUTIL_", "PYTHON", "PYTORCH_", "RUAMEL_"),
    *("SCIPY_", "SKLEARN_", "TMPDIR", "TORCH", "TQDM_", "TYPER_", "TZ", "XDG_C"),
)
PASSED_ON = ("PYTHONPATH",)  # a fork gets the module path itself
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
STATUS_LINES = ("Uid", "Gid", "Groups", "CapEff", "NoNewPrivs", "Seccomp")


def supported() -> bool:
    """Whether this system can run stages in forks: Linux, whose processes can be waited for."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


def identity() -> str:
    """A hash of all that two processes must share, so that one may run as a fork of the other.

    These are the interpreter, the installed packages, the variables that libraries read while they
    are loaded, and what a process is allowed: user, namespaces (containers, networks), control
    group (such as a batch job's, with its memory and cores), capabilities and limits of resources.
    """
    parts = [PROTOCOL, bits_variables(), _interpreter(), _packages(), _variables(), _allowance()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _interpreter() -> "list[Any]":
    return [os.path.realpath(sys.executable), sys.version, sys.prefix, sys.flags, sys.warnoptions]


def _packages() -> "list[Any]":
    """Where the packages come from, and what is installed there."""
    folders = []
    for module in PRELOADED:
        name = module.split(".")[0]
        folders.append(next((path for path in sys.path if _holds(path, name)), ""))

    installed = []
    for folder in sorted({folder for folder in folders if folder}):
        for entry in os.scandir(folder):
            if entry.name.endswith(".dist-info"):
                installed.append((folder, entry.name, entry.stat().st_mtime_ns))
    return [folders, sorted(installed)]


def _holds(folder: str, package: str) -> bool:
    path = os.path.join(folder, package)  # noqa: PTH118 (many, at every start)
    return os.path.isdir(path) or os.path.isfile(f"{path}.py")  # noqa: PTH112, PTH113


def _variables() -> dict[str, str]:
    variables = {}
    for name in sorted(os.environ):
        if sets_load_time_variable(name, os.environ[name]):
            continue  # what stages and the loaded process set themselves
        if name.startswith(LOAD_TIME_PREFIXES) and name not in PASSED_ON:
            variables[name] = os.environ[name]
    return variables


def _allowance() -> "list[Any]":
    root = os.stat("/")  # noqa: PTH116
    namespaces = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]  # noqa: PTH115

    control_group = Path("/proc/self/cgroup").read_text()

    status = []
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.split(":")[0] in STATUS_LINES:
            status.append(line)

    limits = []
    for name in sorted(dir(resource)):
        if name.startswith("RLIMIT_"):
            limits.append(resource.getrlimit(getattr(resource, name)))

    priority = os.getpriority(os.PRIO_PROCESS, 0)
    return [root.st_dev, root.st_ino, namespaces, control_group, status, limits, priority]


def socket_folder() -> Path:
    """The folder of the sockets, which only this user may enter; it is made if it is missing.

    Raises:
        OSError: if somebody else owns it, or may enter it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    if not base:
        import tempfile  # to import it takes as long as all else here

        base = tempfile.gettempdir()
    folder = Path(base) / f"prunelab-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)

    status = folder.lstat()
    private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700
    if not private or status.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder that only this user may enter")
    return folder


def is_loading(address: Path) -> bool:
    """Whether the process of a socket has not loaded all packages yet, as far as is known."""
    return stat.S_IMODE(address.stat().st_mode) == LOADING_MODE


def default_socket(environment: str) -> Path:
    """The socket for all stages of an environment, which is given by its `identity`."""
    return socket_folder() / f"{environment}.sock"
