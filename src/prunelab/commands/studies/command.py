"""`prunelab study list | run | show`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from prunelab.commands.common import interruptible, print_line, report_failures, reporting_errors

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, Argument(help="A study, as `prunelab study list` names it.")]
Quick = Annotated[
    bool, Option("--quick", help="The small run of the same code that a CPU bears in minutes.")
]
Set = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Override a parameter, such as seeds=[0]."),
]


@app.callback()
def _root() -> None:
    """Published studies: run them as DVC experiments and compare with what was printed."""


@app.command("list")
def list_studies() -> None:
    """List the studies there are, and what each leaves to you to give.

    Example: prunelab study list
    """
    from prunelab.commands.studies.study_file import load_study, studies
    from prunelab.core.errors import InputError, one_line

    broken = []
    with reporting_errors():
        names = studies()
    for name in names:
        try:
            study = load_study(name)
        except InputError as refused:
            broken += refused.problems
            continue
        count = len(study.settings)
        needs = (
            f"; needs --set {' --set '.join(f'{key}=…' for key in study.needs)}"
            if study.needs
            else ""
        )
        print(f"{name}: {one_line(study.title)} ({count} setting{'s' * (count > 1)}{needs})")
    with reporting_errors():
        if broken:
            raise InputError(broken)


@app.command()
def run(
    name: Name,
    quick: Quick = False,
    jobs: Annotated[int, Option(min=1, help="How many settings at a time.")] = 1,
    only: Annotated[
        list[str] | None, Option(help="This setting, and others so named, instead of all.")
    ] = None,
    set_: Set = None,
) -> None:
    """Run every setting of a study that has not been measured yet, each as one DVC experiment.

    Everything that can be found wrong is reported before any work starts. A killed run goes on where it was.

    Example: prunelab study run vgg_layerwise --quick
    """
    from prunelab.commands.studies.jobs import jobs_of
    from prunelab.commands.studies.local import run_jobs
    from prunelab.commands.studies.study_file import load_study, read_overrides, resolve
    from prunelab.commands.studies.validate import check_amounts, check_needs, check_settings
    from prunelab.config.params import PARAMS_FILE
    from prunelab.core.registry import pick

    root = Path.cwd()
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
        work = jobs_of(root, settings, lambda setting, _: (label(name, quick), setting))
        with interruptible():
            failures = run_jobs(
                root, f"study {label(name, quick)}", work, at_once=jobs, tell=print_line
            )
    report_failures(failures, len(settings))
    again = [
        name,
        *(["--quick"] if quick else []),
        *(f"--set {shlex.quote(assignment)}" for assignment in set_ or []),
    ]
    print(f"all {len(settings)} settings are measured; prunelab study show {' '.join(again)}")


def label(name: str, quick: bool) -> str:
    """What experiments and results of a study are called."""
    return f"{name}-quick" if quick else name


@app.command()
def show(
    name: Name,
    quick: Quick = False,
    markdown: Annotated[bool, Option("--markdown", help="Tables in Markdown.")] = False,
    set_: Set = None,
) -> None:
    """Print what was measured beside what was published, and write it to studies/results/.

    Example: prunelab study show vgg_layerwise --quick --markdown
    """
    from prunelab.commands.studies import study_tables
    from prunelab.commands.studies.results import collect, write_results
    from prunelab.commands.studies.study_file import load_study, read_overrides, resolve
    from prunelab.config.params import PARAMS_FILE
    from prunelab.core.errors import one_line
    from prunelab.report import text_table
    from prunelab.report.markdown import escaped_table

    root = Path.cwd()
    with reporting_errors():
        study, overrides = load_study(name), read_overrides(set_ or [])
        settings = resolve(study, PARAMS_FILE, quick=quick, overrides=overrides)
        records = collect(
            root, label(name, quick), settings, study.needed(quick).keys() - overrides.keys()
        )
        draw = escaped_table if markdown else text_table.aligned_table
        source = ", ".join(
            filter(None, [f"{study.source.what}, by {study.source.by}", study.source.link])
        )
        # Sentences of a study file are its author's own Markdown; names in its tables are not.
        print("# " * markdown + one_line(study.title) + "\n")
        print(one_line(f"{source}."))
        print(one_line(f"Network: {study.network}. Data: {study.data}.") + "\n")
        print(draw(*study_tables.measured_table(records)), end="\n\n")
        if study.published.rows:
            print(draw(*study_tables.compared_table(study, records)), end="\n\n")
        for note in study_tables.notes(study, records, quick):
            print(one_line(f"- {note}"))
        if overrides.keys() - study.needs.keys():
            print("\nnothing was written: --set made this another study", file=sys.stderr)
        elif any(records.values()):
            written = write_results(root, study, label(name, quick), records)
            print(f"\nwritten to {written.relative_to(root)}", file=sys.stderr)
