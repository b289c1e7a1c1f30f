"""`prunelab study run NAME --here`: from options to a run in this process, and what is printed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunelab.commands.common import interruptible, print_line, report_failures
from prunelab.commands.studies.scale import FULL
from prunelab.core.errors import InputError

if TYPE_CHECKING:
    from prunelab.commands.studies.here import HereRun, Outcome
    from prunelab.commands.studies.study_tables import Shown

WORK = Path(".prunelab/studies/here")  # where nobody gives --work


@dataclass(frozen=True)
class HereOptions:
    """The options of `study run` that only --here understands."""

    minutes: float | None = None
    work: Path | None = None
    scale: float = FULL
    seeds: str | None = None

    def require_defaults(self) -> None:
        """Raise InputError if one of them was given."""
        given = []
        for name, value in (
            ("--minutes", self.minutes),
            ("--work", self.work),
            ("--scale", None if self.scale == FULL else self.scale),
            ("--seeds", self.seeds),
        ):
            if value is not None:
                given.append(name)
        if given:
            raise InputError(f"{name} needs --here, which runs in this process" for name in given)

    def check(self) -> None:
        """Raise InputError for values that no run can have."""
        problems = []
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            problems.append(f"--minutes {self.minutes:g}: give a number above 0")
        if not 0 < self.scale <= FULL:
            problems.append(f"--scale {self.scale:g}: give a number above 0 and at most 1")
        if problems:
            raise InputError(problems)


def seeds_of(text: str) -> list[int]:
    """Parse a list of seeds, such as 0,1,2.

    Raises:
        InputError: if it is none.
    """
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise InputError(f"--seeds {text}: give numbers with commas between, such as 0,1,2")
    return [int(part) for part in text.split(",")]


def run_study_here(
    name: str,
    *,
    variant: Mapping[str, bool],
    only: list[str],
    overrides: dict[str, Any],
    options: HereOptions,
) -> None:
    """Run a study in this process, print its tables, and what is left.

    `variant` holds the flags quick and nearest.
    """
    from prunelab.commands.studies.here import run_here, shared_runtime
    from prunelab.commands.studies.study_tables import Shown
    from prunelab.commands.studies.validate import check_amounts, check_parameters
    from prunelab.runtime.device import configure

    options.check()
    if options.seeds is not None:
        overrides = {**overrides, "seeds": seeds_of(options.seeds)}
    run = _plan_run(name, variant, only, overrides, options)

    print_line(f"checking {len(run.only)} settings ...")
    check_amounts(run.study)
    configure(shared_runtime(run.chosen))  # bits are chosen before anything is computed
    check_parameters(run.root, run.chosen)
    with interruptible():
        outcome = run_here(run, print_line)

    shown = Shown(
        quick=variant["quick"], nearest=variant["nearest"], scale=run.scale, images=run.images
    )
    _print_results(run, outcome, shown)
    if run.results_in != run.root:
        print_line("the study's own results are unchanged: --seeds and --set change the study")
    if outcome.left:
        print_line(_left(outcome.left))
    report_failures(outcome.failures, len(run.only))


def _plan_run(
    name: str,
    variant: Mapping[str, bool],
    only: list[str],
    overrides: dict[str, Any],
    options: HereOptions,
) -> "HereRun":
    """Return what to run, and where.

    Raises:
        InputError: for unknown names and settings, and for parameters that are missing or wrong.
    """
    from prunelab.commands.studies.here import HereRun
    from prunelab.commands.studies.origin import origin_of
    from prunelab.commands.studies.study_file import load_study, resolve
    from prunelab.commands.studies.validate import check_needs
    from prunelab.config.params import PARAMS_FILE
    from prunelab.core.registry import pick

    root = Path.cwd()
    study = load_study(name)
    check_needs(study, variant["quick"], overrides, variant["nearest"])
    settings = resolve(study, PARAMS_FILE, overrides=overrides, scale=options.scale, **variant)
    for setting in only:
        pick(settings, setting, "setting")

    prefix = result_name(name, **variant)
    work = options.work or WORK / f"{prefix}-{options.scale:g}"
    results_in = root
    if overrides.keys() - study.needs.keys():
        results_in = work  # they are of another study

    return HereRun(
        root=root,
        name=prefix,
        study=study,
        settings=settings,
        only=only or list(settings),
        work=work,
        origin=origin_of(root),
        results_in=results_in,
        scale=options.scale,
        images=study.images_of(**variant),
        minutes=options.minutes,
    )


def _print_results(run: "HereRun", outcome: "Outcome", shown: "Shown") -> None:
    """Print the tables of what was measured, and the file that has it."""
    from prunelab.commands.studies.results import results_file
    from prunelab.commands.studies.study_tables import study_document

    if not outcome.records:
        return
    records = {label: outcome.records.get(label) for label in run.only}
    print_line("")
    print_line(study_document(run.study, records, shown, markdown=False))
    print_line(f"written to {results_file(run.results_in, run.name)}")


def result_name(name: str, *, quick: bool, nearest: bool) -> str:
    """Return how the names of a study's experiments and results begin."""
    if quick:
        return f"{name}-quick"
    if nearest:
        return f"{name}-nearest"
    return name


def _left(left: Mapping[str, float | None]) -> str:
    """One line about what the minutes did not suffice for."""
    line = f"left: {', '.join(left)}"
    known = [seconds for seconds in left.values() if seconds is not None]
    if len(known) == len(left):
        line += f" (about {max(1, round(sum(known) / 60))} minutes)"
    return f"{line}; the same command goes on"
