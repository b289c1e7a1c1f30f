"""Find everything wrong with params.yaml and the files it names, before any work starts.

Torch takes longer to import than all else here together. Only checks that need it import it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from prunelab.commands.check import plugins, verdicts
from prunelab.commands.check.inputs import (
    data_changed,
    data_info_of,
    dataset_of,
    named_paths,
    prepared_info,
    weights_changed,
)
from prunelab.commands.check.notes import check_contradictions
from prunelab.config.params import PARAMS_FILE, Params, load_params, read_params, valid_parts
from prunelab.core.cores import THREAD_LIMIT, refuse_threads
from prunelab.core.errors import InputError, describe_os_error
from prunelab.core.mappings import nested_mapping
from prunelab.core.processor import AVX2_MISSING, is_without_avx2
from prunelab.core.registry import Table, require
from prunelab.data.augmentations import AUGMENTATIONS
from prunelab.data.dataset import DataInfo
from prunelab.data.split_sizes import split_problems
from prunelab.datasets.datasets import DATASETS
from prunelab.evaluation.metric_table import METRICS
from prunelab.models.catalogue import network_options, require_model
from prunelab.models.weights_packages import IMAGENET, find_package
from prunelab.models.weights_source import check_options, weights_file
from prunelab.project.paths import BASE, RAW
from prunelab.project.stage_outputs import writer_of
from prunelab.pruning.methods import METHODS
from prunelab.training.lr_schedules import LR_SCHEDULES

# It raises InputError. The paths are those of the raw data and of the trained base networks.
Check = Callable[[Params, Path, Path], None]


def find_problems(
    path: Path = PARAMS_FILE,
    raw: Path = RAW,
    base: Path = BASE,
    *,
    checks: Sequence[Check] | None = None,
) -> list[str]:
    """One line per problem; an empty list means that a run can start.

    Args:
        path: the parameter file.
        raw: the folder of the raw data.
        base: the folder of the trained base networks.
        checks: which of `CHECKS` to make; None makes all of them.
    """
    try:
        content = read_params(path)
    except InputError as error:
        return error.problems

    # Valid sections are checked even if others are not: one round of edits must be enough.
    sections = valid_parts(content)
    params = Params.model_construct(**sections)

    problems = []
    if checks is None:
        problems += plugins.find_problems(_data_info(params, raw), sections.get("model"))
    if not problems:
        problems += [f"{path}: {line}" for line in _unknown_names(content)]
    problems += _problems_of(load_params, path)
    unknown_model = "model" not in sections or _problems_of(require_model, sections["model"])
    if sections.get("dataset") not in DATASETS or unknown_model:
        return problems

    for check, needed_sections in CHECKS.items():
        is_chosen = checks is None or check in checks
        if not is_chosen or not needed_sections <= sections.keys():
            continue
        # Several checks ask the data set for its classes and get the same problems.
        for problem in _problems_of(check, params, raw, base):
            if problem not in problems:
                problems.append(problem)
    return problems


def _problems_of(check: Callable[..., object], *args: object) -> list[str]:
    def checked() -> None:
        try:
            check(*args)
        except OSError as error:
            raise InputError(describe_os_error(error)) from error

    return plugins.problems_of(checked)


def _data_info(params: Params, raw: Path) -> DataInfo | None:
    """What the data set has; None if that is not known, which another check reports."""
    try:
        return data_info_of(params, raw)
    except Exception:  # of whatever kind: the parameters are not checked yet, nor are plugins
        return None


def _unknown_names(content: Any) -> Iterator[str]:
    """A line for every name that is in no table.

    It reads the raw content, so that it finds them besides any other problem.
    """
    if not isinstance(content, dict):
        return
    yield from _unknown_name("dataset", content.get("dataset"), _require_in(DATASETS))
    yield from _unknown_name("model", content.get("model"), require_model)
    yield from _unknown_name("method", content.get("method"), _require_in(METHODS))

    for section, key, table in _NAMES_IN_SECTIONS:
        value = nested_mapping(content, section).get(key)
        names = value if isinstance(value, list) else [value]
        for name in names:
            yield from _unknown_name(f"{section}.{key}", name, _require_in(table))


# Sections of params.yaml, and keys in them whose value is a name in a table, or a list of names.
_NAMES_IN_SECTIONS: Sequence[tuple[str, str, Table[Any]]] = (
    ("grid", "methods", METHODS),
    ("train", "schedule", LR_SCHEDULES),
    ("finetune", "schedule", LR_SCHEDULES),
    ("data", "augment", AUGMENTATIONS),
    ("evaluate", "metrics", METRICS),
)


def _require_in(table: Table[Any]) -> Callable[[str], None]:
    return lambda name: require(table, name, table.kind)


def _unknown_name(place: str, name: object, look_up: Callable[[str], object]) -> Iterator[str]:
    if isinstance(name, str):
        for line in _problems_of(look_up, name):
            yield f"{place}: {line}"


# --- Runtime ---


def _check_runtime(params: Params, raw: Path, base: Path) -> None:
    runtime = params.runtime
    if runtime.bits == "portable" and is_without_avx2():
        raise InputError(AVX2_MISSING)
    limit = os.environ.get(THREAD_LIMIT, "")
    if limit.isdecimal() and int(limit) > 0:  # OpenMP ignores anything else
        refuse_threads(runtime.threads, int(limit))

    needs_no_gpu = runtime.device == "auto" and runtime.processes == 1
    if runtime.precision != "bf16" and (runtime.device == "cpu" or needs_no_gpu):
        return

    from prunelab.runtime.device import choose_device, configure_native, takes_bf16
    from prunelab.runtime.distributed import require_gpus

    takes_bf16(runtime, choose_device(runtime.device))
    require_gpus(runtime.processes, configure_native(runtime))


def _check_backends(params: Params, raw: Path, base: Path) -> None:
    names = [name for name in params.benchmark.backends if name != "eager"]  # which needs nothing
    if not names:
        return

    from prunelab.benchmarking.backends import NEEDS
    from prunelab.runtime.device import configure_native

    execution = configure_native(params.runtime)
    for name in names:
        NEEDS[name](execution)


# --- Data ---


def _check_data(params: Params, raw: Path, base: Path) -> None:
    if prepared_info(params, raw):
        if data_changed(params, raw):
            raise InputError(
                f"data.source: {params.data.source} has changed since it was prepared; "
                "run `dvc repro -f prepare`"
            )
        return

    dataset = dataset_of(params, raw)
    problems = dataset.damaged()
    missing = dataset.missing()
    if missing and not dataset.reachable():
        problems = problems + missing
    if not problems:
        data = params.data
        problems = split_problems(
            dataset.class_counts(), data.test_fraction, data.validation_fraction, data.split_seed
        )
    if problems:
        raise InputError(problems)
    check_contradictions(params, dataset)


def _check_normalise(params: Params, raw: Path, base: Path) -> None:
    normalise = params.data.normalise
    if normalise is None:
        return

    shape = data_info_of(params, raw).shape
    channels = 0
    if len(shape) == 3:
        channels = shape[0]
    if {len(normalise.mean), len(normalise.std)} != {channels}:
        raise InputError(
            f"data.normalise: {len(normalise.mean)} means and {len(normalise.std)} deviations, "
            f"but {params.dataset} has {channels} channels"
        )


# --- Paths ---


def _check_paths(params: Params, raw: Path, base: Path) -> None:
    """Refuse what the pipeline itself writes: DVC deletes it before the stage could read it."""
    problems = []
    for key, path in named_paths(params).items():
        writer = writer_of(path, Path())
        if writer:
            stage, output = writer
            problems.append(
                f"{key}: {path} is in {output}, an output of the stage {stage}, which DVC deletes "
                f"before the stage runs. Copy it to a place outside the outputs, such as {RAW}, "
                f"and name the copy."
            )
    if problems:
        raise InputError(problems)


# --- Weights ---


def _check_weights(params: Params, raw: Path, base: Path) -> None:
    check_options(params.weights, params.model, params.weights_options)
    package = find_package(params.weights, params.model)
    if params.weights == IMAGENET and package is None:
        from prunelab.models import imagenet

        imagenet.locate(params.model)  # the stage downloads them
        return

    path = weights_file(params.weights, params.model)
    if path:
        from prunelab.commands.check import network

        network.check_weights(params, data_info_of(params, raw), path)


def _check_weights_unchanged(params: Params, raw: Path, base: Path) -> None:
    if weights_changed(params, base):
        raise InputError(
            f"weights: {params.weights} has changed since {base} was trained; "
            "run `dvc repro -f train_base`"
        )


# --- The network ---


def _check_freeze(params: Params, raw: Path, base: Path) -> None:
    _check_network("check_freeze", _check_freeze, params, raw)


def _check_sensitivity(params: Params, raw: Path, base: Path) -> None:
    _check_network("check_sensitivity", _check_sensitivity, params, raw)


def check_feasible(params: Params, raw: Path, base: Path) -> None:
    """Check that every cell of the grid, and the focus, can be met on the network.

    Raises:
        InputError: with one line per reason why one cannot.
    """
    _check_network("check_feasible", check_feasible, params, raw)


def _check_network(name: str, check: Check, params: Params, raw: Path) -> None:
    """Make the check of that name in `network`, unless it passed before with the same inputs."""
    data_info = data_info_of(params, raw)
    options = network_options(params.model, params.weights, params.model_options)
    sections = {key: _plain(getattr(params, key)) for key in sorted(CHECKS[check])}
    verdict = verdicts.verdict(name, sections, data_info.classes, data_info.shape, options)
    if verdicts.has_passed(verdict):
        return

    from prunelab.commands.check import network

    make: Callable[[Params, DataInfo], None] = getattr(network, name)
    make(params, data_info)
    verdicts.remember(verdict)


def _plain(section: Any) -> Any:
    """A value of the parameters as plain JSON."""
    if isinstance(section, BaseModel):
        return section.model_dump(mode="json")
    return section


MODEL = ("model", "model_options", "weights")  # what decides on the network's structure

# The checks, in the order of their lines, and the keys of params.yaml that each needs to be valid.
CHECKS: dict[Check, set[str]] = {
    _check_runtime: {"runtime"},
    _check_backends: {"runtime", "benchmark"},
    _check_paths: {"data", "weights"},
    _check_data: {"dataset", "data", "weights"},
    _check_normalise: {"dataset", "data", "weights"},
    _check_weights: {"dataset", "data", *MODEL, "weights_options", "train"},
    _check_freeze: {"dataset", "data", *MODEL, "train"},
    _check_weights_unchanged: {"model", "weights", "seeds"},
    _check_sensitivity: {"dataset", "data", *MODEL, "sensitivity"},
    check_feasible: {
        "dataset",
        "data",
        *MODEL,
        "grid",
        "method",
        "ratio",
        "budget",
        "prune",
        "train",
    },
}
