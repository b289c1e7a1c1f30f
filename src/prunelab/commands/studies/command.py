"""`prunelab study list | run | show`: arguments, help and what is printed."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from prunelab.commands.common import interruptible, print_line, report_failures, reporting_errors

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, Argument(help="A study, as `prunelab study list` names it.")]
Quick = Annotated[bool, Option("--quick", help="The small run of the same code, minutes on a CPU.")]
Set = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Override a parameter, such as seeds=[0]."),
]


@app.callback()
def _root() -> None:
    """Run published studies as DVC experiments and compare the results with the publication."""


@app.command("list")
def list_studies() -> None:
    """List the studies, and the parameters that you must give for each.

    Example: prunelab study list
    """
    from prunelab.commands.studies.study_file import load_study, study_files
    from prunelab.core.errors import InputError, one_line

    problems = []
    with reporting_errors():
        names = study_files()
    for name in names:
        try:
            study = load_study(name)
        except InputError as error:
            problems += error.problems
            continue

        count = len(study.settings)
        details = f"{count} setting{'s' * (count > 1)}"
        if study.needs:
            details += "; needs" + "".join(f" --set {key}=…" for key in study.needs)
        print(f"{name}: {one_line(study.title)} ({details})")

    with reporting_errors():
        if problems:
            raise InputError(problems)


@app.command()
def run(
    name: Name,
    quick: Quick = False,
    jobs: Annotated[int, Option(min=1, help="How many settings at a time.")] = 1,
    only: Annotated[
        list[str] | None, Option(help="Run this setting alone; may be given several times.")
    ] = None,
    set_: Set = None,
) -> None:
    """Run every setting of a study that has not been measured yet, each as one DVC experiment.

    All problems that can be found are reported before any work starts. After an interruption, run
    the same command again to continue.

    Example: prunelab study run vgg_layerwise --quick
    """
    from prunelab.commands.studies.jobs import plan_jobs
    from prunelab.commands.studies.local import run_jobs
    from prunelab.commands.studies.study_file import load_study, read_overrides, resolve
    from prunelab.commands.studies.validate import check_amounts, check_needs, check_settings
    from prunelab.config.params import PARAMS_FILE
    from prunelab.core.registry import pick

    root = Path.cwd()
    prefix = experiment_prefix(name, quick)
    with reporting_errors():
        study, overrides = load_study(name), read_overrides(set_ or [])
        check_needs(study, quick, overrides)

        settings = resolve(study, PARAMS_FILE, quick=quick, overrides=overrides)
        if only:
            for setting in only:
                pick(settings, setting, "setting")
            settings = {setting: settings[setting] for setting in only}

        print_line(f"checking {len(settings)} settings ...")
        check_amounts(study)
        check_settings(root, settings)

        work = plan_jobs(root, settings, lambda setting, _: (prefix, setting))
        with interruptible():
            failures = run_jobs(root, f"study {prefix}", work, at_once=jobs, print_line=print_line)
    report_failures(failures, len(settings))

    arguments = _show_arguments(name, quick, set_ or [])
    print(f"all {len(settings)} settings are measured; prunelab study show {arguments}")


def experiment_prefix(name: str, quick: bool) -> str:
    """Return how the names of a study's experiments and results begin."""
    return f"{name}-quick" if quick else name


def _show_arguments(name: str, quick: bool, assignments: list[str]) -> str:
    """Return the arguments with which `prunelab study show` shows what was run."""
    arguments = [name]
    if quick:
        arguments.append("--quick")
    arguments += [f"--set {shlex.quote(assignment)}" for assignment in assignments]
    return " ".join(arguments)


@app.command()
def show(
    name: Name,
    quick: Quick = False,
    markdown: Annotated[bool, Option("--markdown", help="Tables in Markdown.")] = False,
    set_: Set = None,
) -> None:
    """Print the measured numbers beside the published ones, and write them to studies/results/.

    Example: prunelab study show vgg_layerwise --quick --markdown
    """
    from prunelab.commands.studies.results import collect, write_results
    from prunelab.commands.studies.study_file import load_study, read_overrides, resolve
    from prunelab.commands.studies.study_tables import study_document
    from prunelab.config.params import PARAMS_FILE

    root = Path.cwd()
    prefix = experiment_prefix(name, quick)
    with reporting_errors():
        study, overrides = load_study(name), read_overrides(set_ or [])
        settings = resolve(study, PARAMS_FILE, quick=quick, overrides=overrides)
        free_keys = study.needed(quick).keys() - overrides.keys()
        records = collect(root, prefix, settings, free_keys)

        print(study_document(study, records, quick=quick, markdown=markdown))

        changed_keys = overrides.keys() - study.needs.keys()
        if changed_keys:
            print("\nnothing was written: --set changes the study", file=sys.stderr)
        elif any(records.values()):
            file = write_results(root, study, prefix, records)
            print(f"\nwritten to {file.relative_to(root)}", file=sys.stderr)
