"""Checks of the settings of a study or a sweep, before any of them runs."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from prunelab.commands.studies.jobs import Parameters, Settings
from prunelab.commands.studies.study_file import Setting, Study, grouped_problems
from prunelab.core.errors import InputError
from prunelab.core.files import user_path
from prunelab.project.experiments import digest, value_at
from prunelab.project.git import git, require_commit, require_identity
from prunelab.project.paths import RAW

SETTING_KEYS = ("method", "ratio", "budget", "prune", "finetune")  # settings differ in these
PATH_KEYS = ("weights", "data.source", "data.table")


def check_needs(
    study: Study, quick: bool, overrides: Mapping[str, Any], nearest: bool = False
) -> None:
    """Raise InputError for every parameter that the user must give and has not given."""
    problems = []
    for key, what in study.needed(quick, nearest).items():
        if key not in overrides:
            problems.append(f"{key} is missing: {what}. Give it with --set {key}=….")
    if problems:
        raise InputError(problems)


def check_amounts(study: Study) -> None:
    """Raise InputError if a setting has an amount per round and its method has no rounds."""
    wrong = [setting for setting in study.settings if _lacks_rounds(setting)]
    if wrong:
        raise InputError(
            f"settings: {setting.label}: prune_fraction is the fraction that each of several "
            f"rounds removes, and {setting.method} has no rounds. Use ratio or times_fewer."
            for setting in wrong
        )


def _lacks_rounds(setting: Setting) -> bool:
    from prunelab.pruning.methods import METHODS

    if not setting.prune_fraction or setting.method not in METHODS:
        return False
    return METHODS[setting.method].schedule != "iterative"


def check_settings(root: Path, settings: Settings, *, elsewhere: bool = False) -> None:
    """Report everything that can be found wrong with any setting before any work starts.

    `elsewhere` means that the settings run on other machines. Those have only what is in Git, and
    the hardware of this machine does not matter.

    Raises:
        InputError: with one line per problem, all at once, that names the settings with it; before
            that, if Git cannot keep experiments here.
    """
    require_commit(root)
    require_identity(root)
    check_parameters(root, settings, elsewhere=elsewhere, in_clones=True)


def check_parameters(
    root: Path, settings: Settings, *, elsewhere: bool = False, in_clones: bool = False
) -> None:
    """Report everything that can be found wrong with any setting; Git is not needed.

    `in_clones` means that the settings run in clones, which have only some of the files here. Git
    then says which.

    Raises:
        InputError: with one line per problem, all at once, that names the settings with it.
    """
    from prunelab.commands.check.check import check_feasible

    shared_checks = _shared_checks(elsewhere)
    shared_problems: dict[str, list[str]] = {}  # by the parameters that settings share
    labels_by_problem: dict[str, list[str]] = {}
    for label, params in settings.items():
        # Most settings share their data and weights, which are read once.
        shared_params = {key: value for key, value in params.items() if key not in SETTING_KEYS}
        shared_key = digest(shared_params)
        if shared_key not in shared_problems:
            shared_problems[shared_key] = _problems(root, params, shared_checks)

        problems = [*shared_problems[shared_key], *_problems(root, params, [check_feasible])]
        if in_clones:
            problems += files_left_behind(root, params, elsewhere)
        else:
            problems += _paths_that_lead_out(params)
        for problem in dict.fromkeys(problems):
            if not problem.startswith("grid."):
                labels_by_problem.setdefault(problem, []).append(label)

    if labels_by_problem:
        raise InputError(grouped_problems(labels_by_problem, len(settings)))


def _shared_checks(elsewhere: bool) -> list[Any]:
    """Return the checks of `prunelab check` whose result settings can share."""
    from prunelab.commands.check.check import CHECKS, check_feasible

    shared = []
    for check, sections in CHECKS.items():
        is_own = check is check_feasible
        is_unused = "sensitivity" in sections  # no setting runs that stage
        is_of_this_machine = elsewhere and "runtime" in sections
        if not (is_own or is_unused or is_of_this_machine):
            shared.append(check)

    return shared


def _problems(root: Path, params: Parameters, checks: Sequence[Any]) -> list[str]:
    """Return the problems that these checks find with the parameters of one setting."""
    from prunelab.commands.check.check import find_problems

    # The grid does not run here. It must not be the reason for a problem.
    grid = {"methods": [params["method"]], "ratios": [params["ratio"]]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        YAML(typ="safe").dump({**params, "grid": grid}, path)
        problems = find_problems(path, raw=root / RAW, base=Path(folder), checks=checks)
    return [problem.removeprefix(f"{path}: ") for problem in problems]


def files_left_behind(root: Path, params: Parameters, elsewhere: bool) -> list[str]:
    """Return a problem for every file that `params` name and the setting's clone will not have."""
    problems = []
    for key in PATH_KEYS:
        path = value_at(params, key)
        is_relative_file = path and not user_path(path).is_absolute() and (root / path).exists()
        if not is_relative_file or _is_in_git(root, str(path)):
            continue

        if elsewhere:
            problems.append(
                f"{key}: {path} is not in Git, so the other machines do not have it. Give an "
                "absolute path that leads to the file on every machine."
            )
        elif not Path(path).is_relative_to(RAW):
            problems.append(
                f"{key}: {path} is neither under {RAW} nor in Git, so the clone in which the "
                "setting runs does not have it. Move it there, or give an absolute path."
            )

    return problems


def _paths_that_lead_out(params: Parameters) -> list[str]:
    """Return a problem for every path with "..", which the folder of a stage cannot follow."""
    problems = []
    for key in PATH_KEYS:
        path = value_at(params, key)
        if isinstance(path, str) and ".." in Path(path).parts and not user_path(path).is_absolute():
            problems.append(f"{key}: {path} leads out of the project. Give an absolute path.")
    return problems


def _is_in_git(root: Path, path: str) -> bool:
    try:
        return bool(git(root, "ls-files", "--", path))
    except InputError:
        return False  # a path that leads out of the repository
