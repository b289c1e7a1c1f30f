"""What is wrong with the files in plugins/: names, imports, and whether entries keep the rules."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prunelab.commands.check import entries, verdicts
from prunelab.core import plugins
from prunelab.core.errors import InputError
from prunelab.core.plugins import Registration
from prunelab.core.registry import Table
from prunelab.data.augmentations import AUGMENTATIONS
from prunelab.data.dataset import DataConfig, DataInfo, Dataset
from prunelab.datasets.datasets import DATASETS
from prunelab.evaluation.metric_table import METRICS
from prunelab.models.catalogue import MODELS, InputKind, input_kind
from prunelab.pruning.methods import METHODS
from prunelab.training.lr_schedules import LR_SCHEDULES

# Tried for a network that the study does not use, after the inputs of the study.
COMMON_INPUTS: Mapping[InputKind, tuple[DataInfo, ...]] = {
    "images": (DataInfo(10, (3, 32, 32)), DataInfo(10, (3, 224, 224))),
    "texts": (DataInfo(2, (16,)),),
}


def find_problems(data_info: DataInfo | None, model: str | None = None) -> list[str]:
    """One line per problem, each with the file of the plugin, the line in it and what to do.

    Networks are tried with inputs as the study has them, if those are known. Those that are not
    the study's `model` may also be made for others.
    """
    current = plugins.current()
    if current.problems:
        return list(current.problems)
    if not current.registrations:
        return _import_all()

    inputs = None if data_info is None else [data_info.classes, *data_info.shape]
    verdict = verdicts.verdict("plugins", inputs, model)
    if verdicts.has_passed(verdict):
        return []

    problems = _names_of_the_package() or _import_all()
    if not problems:
        problems = _entry_problems(data_info, model)
    if not problems:
        verdicts.remember(verdict)
    return problems


def _names_of_the_package() -> list[str]:
    """A line for each name that this package has already."""
    lines = []
    for kind, table in _tables().items():
        for name, registration in plugins.current().of_kind(kind).items():
            if name in table.own:
                lines.append(plugins.taken(registration, "in prunelab"))
    return lines


def _import_all() -> list[str]:
    problems: list[str] = []
    for file in plugins.current().files:
        problems += problems_of(plugins.load, f"{plugins.PACKAGE}.{file.stem}")
    return list(dict.fromkeys(problems))


def _entry_problems(data_info: DataInfo | None, model: str | None) -> list[str]:
    checks: dict[str, Callable[[Registration], None]] = {
        "model": lambda entry: _check_network(entry, data_info, entry.name == model),
        "method": _check_method,
        "criterion": _check_criterion,
        "dataset": _check_dataset,
        "augmentation": lambda entry: entries.check_augmentation(entry.name),
        "metric": lambda entry: entries.check_metric(entry.name),
        "lr_schedule": lambda entry: entries.check_lr_schedule(entry.name),
    }

    problems = []
    tables = _tables()
    for registration in plugins.current().registrations.values():
        lines = problems_of(tables[registration.kind].__getitem__, registration.name)
        if not lines and registration.kind in checks:
            lines = problems_of(checks[registration.kind], registration)
        problems += lines
    return problems


def problems_of(check: Callable[..., object], *args: object) -> list[str]:
    """The problems that a check raises, those that the code of plugins raises included."""
    try:
        check(*args)
    except InputError as error:
        return error.problems
    except (Exception, SystemExit) as error:
        lines = plugins.failure_lines(error)
        if not lines:
            raise
        return lines
    return []


def _tables() -> dict[str, Table[Any]]:
    """The tables by kind; those that import torch only if a plugin registers something there."""
    tables: dict[str, Table[Any]] = {
        "model": MODELS,
        "method": METHODS,
        "dataset": DATASETS,
        "augmentation": AUGMENTATIONS,
        "metric": METRICS,
        "lr_schedule": LR_SCHEDULES,
    }
    current = plugins.current()
    if current.of_kind("criterion"):
        from prunelab.pruning.criteria import CRITERIA

        tables["criterion"] = CRITERIA
    if current.of_kind("schedule"):
        from prunelab.pruning.schedules import SCHEDULES

        tables["schedule"] = SCHEDULES
    return tables


def _check_network(registration: Registration, data_info: DataInfo | None, is_used: bool) -> None:
    """Check a network on the inputs of the study, or else on the first common ones that it takes.

    The network that the study uses is checked on those of the study alone.

    Raises:
        InputError: with the line for the inputs that were tried first.
    """
    from prunelab.models.probe import check_network

    name = registration.name
    reads = MODELS[name].reads
    inputs = list(COMMON_INPUTS[reads])
    if data_info is not None and is_used:
        inputs = [data_info]
    elif data_info is not None and input_kind(data_info.shape) == reads:
        inputs.insert(0, data_info)

    first_error = None
    for info in inputs:
        try:
            check_network(name, info.classes, info.shape)
        except InputError as error:
            first_error = first_error or error
        else:
            return
    assert first_error is not None
    raise first_error


def _check_method(registration: Registration) -> None:
    """Check that every part of a method is in its table."""
    from prunelab.pruning.prune import check_parts

    check_parts(registration.name)


def _check_criterion(registration: Registration) -> None:
    """Check the scores of a criterion on a small network."""
    from prunelab.pruning.criteria.probe import check_criterion

    check_criterion(registration.name)


def _check_dataset(registration: Registration) -> None:
    """Check that a data set can be made and has the functions that stages call."""
    dataset = DATASETS[registration.name](DataConfig(Path("data/raw")))
    for name in vars(Dataset):
        if not name.startswith("_") and not callable(getattr(dataset, name, None)):
            raise InputError(
                f"{registration.place}: data set {registration.name} has no function {name}; "
                "prunelab.data.dataset.Dataset lists them"
            )
