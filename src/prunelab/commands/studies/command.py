"""`prunelab study list | run | show`: arguments, help and what is printed."""

import shlex
import sys
from pathlib import Path
from textwrap import wrap
from typing import Annotated

import typer
from typer import Argument, Option

from prunelab.commands.common import interruptible, print_line, report_failures, reporting_errors
from prunelab.core.plurals import counted
from prunelab.core.project_root import argument_path
from prunelab.core.terminal import paint_tables

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, Argument(metavar="STUDY", help="A study, as `prunelab study list` names it.")]
Quick = Annotated[bool, Option("--quick", help="The small run of the same code, minutes on a CPU.")]
Nearest = Annotated[
    bool, Option("--nearest", help="What can be run where the study cannot; its file says why.")
]
Set = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Override a parameter, such as seeds=[0]."),
]


@app.callback()
def _root() -> None:
    """Run published studies as DVC experiments and compare the results with the publication.

    Example:
      prunelab study run resnet56_cpu --quick && prunelab study show resnet56_cpu
    """


@app.command("list", short_help="The studies, and what each needs from you.")
def list_studies() -> None:
    """List the studies, and the parameters that you must give for each.

    Example:
      prunelab study list
    """
    from prunelab.commands.studies.study_file import load_study, study_files
    from prunelab.core.errors import InputError, one_line
    from prunelab.report.text_table import INDENT, MAX_WIDTH

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
        details = counted(count, "setting")
        if study.needs:
            details += "; needs" + "".join(f" --set {key}=…" for key in study.needs)
        if study.nearest:
            details += "; or --nearest"
        text = f"{name}: {one_line(study.title)} ({details})"
        print("\n".join(wrap(text, MAX_WIDTH, subsequent_indent=INDENT, break_on_hyphens=False)))

    with reporting_errors():
        if problems:
            raise InputError(problems)


@app.command(short_help="Run every setting that has not been measured yet.")
def run(  # noqa: PLR0913 (a parameter for each option)
    name: Name,
    quick: Quick = False,
    jobs: Annotated[int, Option(min=1, metavar="N", help="How many settings at a time.")] = 1,
    only: Annotated[
        list[str] | None,
        Option(metavar="SETTING", help="Run this setting alone; may be given several times."),
    ] = None,
    set_: Set = None,
    nearest: Nearest = False,
    here: Annotated[
        bool, Option("--here", help="In this process: without DVC and without clones.")
    ] = False,
    minutes: Annotated[
        float | None, Option(help="With --here: end in time; the same command goes on.")
    ] = None,
    scale: Annotated[float, Option(help="With --here: all epochs times this, up to 1.")] = 1.0,
    seeds: Annotated[str | None, Option(help="With --here: other seeds, such as 0,1.")] = None,
    work: Annotated[
        Path | None,
        Option(
            metavar="FOLDER",
            parser=argument_path,
            help="With --here: the folder for networks and checkpoints.",
        ),
    ] = None,
) -> None:
    """Run every setting of a study that has not been measured yet.

    Each becomes one DVC experiment; with --here, a line of the study's result file. All problems
    that can be found are reported before any work starts. After an interruption, run the same
    command again to continue.

    Example:
      prunelab study run resnet56_cpu --quick
    """
    from prunelab.commands.studies.here_command import HereOptions, run_study_here
    from prunelab.commands.studies.study_file import read_overrides
    from prunelab.core.lifecycle import set_load_time_variables

    options = HereOptions(minutes=minutes, work=work, scale=scale, seeds=seeds)
    variant = {"quick": quick, "nearest": nearest}
    if not here:
        with reporting_errors():
            options.require_defaults()
        _run_by_dvc(name, variant, jobs, only or [], set_ or [])
        return

    set_load_time_variables()
    with reporting_errors():
        overrides = read_overrides(set_ or [])
        run_study_here(name, variant=variant, only=only or [], overrides=overrides, options=options)


def _run_by_dvc(
    name: str, variant: dict[str, bool], jobs: int, only: list[str], assignments: list[str]
) -> None:
    """Run settings as DVC experiments in clones."""
    from prunelab.commands.studies.here_command import result_name
    from prunelab.commands.studies.jobs import plan_jobs
    from prunelab.commands.studies.local import run_jobs
    from prunelab.commands.studies.study_file import load_study, read_overrides, resolve
    from prunelab.commands.studies.validate import check_amounts, check_needs, check_settings
    from prunelab.config.params import PARAMS_FILE
    from prunelab.core.registry import pick

    root = Path.cwd()
    prefix = result_name(name, **variant)
    with reporting_errors():
        study, overrides = load_study(name), read_overrides(assignments)
        check_needs(study, variant["quick"], overrides, variant["nearest"])
        study.require_all_images(**variant)

        settings = resolve(study, PARAMS_FILE, overrides=overrides, **variant)
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

    arguments = _show_arguments(name, variant, assignments)
    print(f"all {len(settings)} settings are measured; prunelab study show {arguments}")


def _show_arguments(name: str, variant: dict[str, bool], assignments: list[str]) -> str:
    """Return the arguments with which `prunelab study show` shows what was run."""
    arguments = [name]
    arguments += [f"--{flag}" for flag, is_set in variant.items() if is_set]
    arguments += [f"--set {shlex.quote(assignment)}" for assignment in assignments]
    return " ".join(arguments)


@app.command(short_help="The measured numbers beside the published ones.")
def show(
    name: Name,
    quick: Quick = False,
    markdown: Annotated[bool, Option("--markdown", help="Tables in Markdown.")] = False,
    set_: Set = None,
    nearest: Nearest = False,
    scale: Annotated[
        float | None, Option(help="Results at this scale. [default: the largest measured]")
    ] = None,
) -> None:
    """Print the measured numbers beside the published ones, and keep new ones in studies/results/.

    Example:
      prunelab study show resnet56_cpu --markdown
    """
    from prunelab.commands.studies.here_command import result_name
    from prunelab.commands.studies.results import (
        collect,
        results_file,
        shown_scale,
        write_results,
    )
    from prunelab.commands.studies.study_file import load_study, read_overrides, resolve
    from prunelab.commands.studies.study_tables import Shown, study_document
    from prunelab.config.params import PARAMS_FILE

    root = Path.cwd()
    variant = {"quick": quick, "nearest": nearest}
    prefix = result_name(name, **variant)
    with reporting_errors():
        study, overrides = load_study(name), read_overrides(set_ or [])
        labels = [setting.label for setting in study.selected_settings(quick, nearest)]
        shown, others = shown_scale(root, prefix, labels, scale)
        settings = resolve(study, PARAMS_FILE, overrides=overrides, scale=shown, **variant)
        free_keys = study.needed(quick, nearest).keys() - overrides.keys()
        images = study.images_of(**variant)
        records = collect(root, prefix, settings, free_keys, scale=shown, images=images)

        about = Shown(scale=shown, images=images, other_scales=others, **variant)
        print(paint_tables(study_document(study, records, about, markdown=markdown)))

        changed_keys = overrides.keys() - study.needs.keys()
        if changed_keys:
            print("\nnothing was written: --set changes the study", file=sys.stderr)
        elif write_results(root, study, prefix, records):
            file = results_file(root, prefix).relative_to(root)
            print(f"\nwritten to {file}", file=sys.stderr)


@app.command(short_help="Add one result file to another of the same study.")
def merge(
    into: Annotated[
        Path,
        Argument(
            metavar="FILE",
            parser=argument_path,
            help="A result file, to which the other's settings are added.",
        ),
    ],
    other: Annotated[
        Path,
        Argument(metavar="OTHER", parser=argument_path, help="A result file of the same study."),
    ],
) -> None:
    """Add the settings of one result file to another file of the same study.

    Files with different parameters are refused. A setting that both have stays as it is in the
    first file.

    Example:
      prunelab study merge studies/results/resnet56_cpu.json more.json
    """
    from prunelab.commands.studies.merge import merge_files

    with reporting_errors():
        added, kept = merge_files(into, other)
    names = ", ".join(added) or "nothing"
    print(f"{into}: added {names}")
    if kept:
        print(f"kept as they were: {', '.join(kept)}")


@app.command(short_help="What the results say of every published claim.")
def claims() -> None:
    """Print what the results say of every published claim, as a Markdown table.

    Example:
      prunelab study claims
    """
    from prunelab.commands.studies.claims import claims_table

    with reporting_errors():
        print(claims_table(Path.cwd()))
