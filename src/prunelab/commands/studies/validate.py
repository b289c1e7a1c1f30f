"""What is looked for in the settings of a study or a sweep before any of them runs."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from prunelab.commands.studies.jobs import Parameters, Settings
from prunelab.commands.studies.study_file import Study, told_of
from prunelab.core.errors import InputError
from prunelab.project.experiments import digest
from prunelab.project.git import git
from prunelab.project.paths import RAW

OWN = ("method", "ratio", "budget", "prune", "finetune")  # what settings of a study differ in
PATHS = ("weights", "data.source")


def check_needs(study: Study, quick: bool, overrides: Mapping[str, Any]) -> None:
    """Raise InputError for every parameter that the study leaves to the user and the user has not given."""
    missing = {key: what for key, what in study.needed(quick).items() if key not in overrides}
    if missing:
        raise InputError(
            f"{key} is needed: {what}; give it with --set {key}=…" for key, what in missing.items()
        )


def check_amounts(study: Study) -> None:
    """Raise InputError for an amount per round of a method that has no rounds."""
    from prunelab.pruning.methods import METHODS
    from prunelab.pruning.schedules import iterative

    wrong = [
        setting
        for setting in study.settings
        if setting.prune_fraction
        and setting.method in METHODS
        and METHODS[setting.method].schedule is not iterative
    ]
    if wrong:
        raise InputError(
            f"settings: {setting.label}: prune_fraction is what each of several rounds removes, and {setting.method} "
            "has no rounds; give ratio or times_fewer"
            for setting in wrong
        )


def check_settings(root: Path, settings: Settings, *, elsewhere: bool = False) -> None:
    """Look for everything that can be found wrong with any setting before any work starts.

    Settings that run `elsewhere`, on other machines, find there only what is in Git; this machine's hardware is not
    what they are held against.

    Raises:
        InputError: with one line per problem, all of them at once, naming the settings that have it.
    """
    from prunelab.commands.check import CHECKS, check_feasible, find_problems

    # Curves of layers are none of a setting's stages.
    common = [
        check
        for check, needs in CHECKS.items()
        if check is not check_feasible and "sensitivity" not in needs
    ]
    if elsewhere:
        common = [check for check in common if "runtime" not in CHECKS[check]]

    found: dict[str, list[str]] = {}
    looked_into: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"

        def problems(params: Parameters, checks: Sequence[Any]) -> list[str]:
            # The grid does not run here, so it must not be what a setting is refused for.
            own = {**params, "grid": {"methods": [params["method"]], "ratios": [params["ratio"]]}}
            YAML(typ="safe").dump(own, path)
            told = find_problems(path, raw=root / RAW, base=Path(folder), checks=checks)
            return [line.removeprefix(f"{path}: ") for line in told]

        for label, params in settings.items():
            # Data and weights, which most settings share, are read once.
            shared = digest({key: its for key, its in params.items() if key not in OWN})
            if shared not in looked_into:
                looked_into[shared] = problems(params, common)
            for problem in dict.fromkeys(
                looked_into[shared]
                + problems(params, [check_feasible])
                + left_behind(root, params, elsewhere)
            ):
                if not problem.startswith("grid."):
                    found.setdefault(problem, []).append(label)
    if found:
        raise InputError(told_of(found, len(settings)))


def left_behind(root: Path, params: Parameters, elsewhere: bool) -> list[str]:
    """Files that a setting names and its checkout would not have."""
    problems = []
    for key in PATHS:
        section, _, inner = key.partition(".")
        value = params[section][inner] if inner else params[section]
        if not value or Path(value).is_absolute() or not (root / value).exists():
            continue
        if git(root, "ls-files", "--", str(value)):
            continue
        if elsewhere:
            problems.append(
                f"{key}: {value} is not in Git, from which the machines have all they have; give an absolute path at "
                "which every one of them finds it"
            )
        elif not Path(value).is_relative_to(RAW):
            problems.append(
                f"{key}: {value} is neither under {RAW} nor in Git, and this runs in a checkout of its own; "
                "put it there, or give an absolute path"
            )
    return problems
