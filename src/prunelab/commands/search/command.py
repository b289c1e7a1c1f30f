"""`prunelab search`: arguments and help; `run_search` does the work."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Option

from prunelab.commands.common import print_line, reporting_errors
from prunelab.commands.sweep.command import Address, CpusPerTask, GitRemote, GpusPerTask

SECONDS = {"s": 1, "m": 60, "h": 3600}
DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])")


class Minimise(StrEnum):
    macs = "macs"
    latency = "latency"
    params = "params"
    size_compressed_bytes = "size_compressed_bytes"


def search(  # noqa: PLR0913 (a parameter for each option)
    max_drop: Annotated[
        float | None,
        Option(help="Points of accuracy that may be lost, such as 0.5.", show_default=False),
    ] = None,
    minimise: Annotated[Minimise, Option(help="What to make small.")] = Minimise.macs,
    batch_size: Annotated[int, Option(min=1, help="Inputs at a time, for latency.")] = 1,
    within: Annotated[
        str | None,
        Option(metavar="TIME", help="Time for all, such as 90s, 30m or 1h.", show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=VALUE", help="Override a parameter, such as search.tries=20."),
    ] = None,
    jobs: Annotated[
        int, Option(min=1, help="How many tries at a time on this machine, a GPU each.")
    ] = 1,
    address: Address = None,
    cpus_per_task: CpusPerTask = None,
    gpus_per_task: GpusPerTask = None,
    git_remote: GitRemote = "origin",
    resume: Annotated[bool, Option("--resume", help="Go on with the last search.")] = False,
    status: Annotated[bool, Option("--status", help="What the last search has done.")] = False,
    stop: Annotated[bool, Option("--stop", help="Let the running search end early.")] = False,
) -> None:
    """Find the smallest network that loses no more than --max-drop, and show that it does.

    What is searched, and within which ranges, is in params.yaml, section search. Every try is a
    DVC experiment, measured on the validation split alone. The network that is found is trained
    again, with fresh seeds, and measured once on the test split, beside larger ones and two
    controls.

    Nothing that was finished runs again, so the same command, or --resume, continues an
    interrupted search (docs/search.md).

    Example:
      prunelab search --max-drop 0.5 --minimise macs --within 30m
    """
    with reporting_errors():
        _check_usage(max_drop, set_ or [], resume=resume, status=status, stop=stop)
        within_s = _seconds(within)

        from prunelab.commands.search import control
        from prunelab.commands.search.plan import Request, Where, check_request
        from prunelab.commands.studies.study_file import read_overrides

        root = Path.cwd()
        where = Where(jobs, address, git_remote, cpus_per_task, gpus_per_task)
        if status:
            lines = control.status(root)
        elif stop:
            lines = control.stop(root)
        elif max_drop is None:
            from prunelab.commands.search.search import resume_search

            lines = resume_search(root, where, within_s, print_line)
        else:
            overrides = read_overrides(set_ or [], "the search chooses methods and ratios")
            request = Request(max_drop, minimise.value, batch_size, overrides)
            check_request(request)
            from prunelab.commands.search.search import run_search

            lines = run_search(root, request, where, within_s, print_line)

        for line in lines:
            print_line(line)


def _check_usage(
    max_drop: float | None, assignments: list[str], *, resume: bool, status: bool, stop: bool
) -> None:
    """Raise InputError unless exactly one thing is asked for, and nothing that would not count."""
    from prunelab.core.errors import InputError

    chosen = [resume, status, stop, max_drop is not None]
    if sum(chosen) != 1:
        raise InputError(
            "give one of --max-drop (points that may be lost, such as 0.5), --resume, --status "
            "and --stop"
        )
    if assignments and max_drop is None:
        raise InputError(
            "--set makes another search, which begins with --max-drop and finds all earlier runs; "
            "--resume goes on with the last search as it is"
        )


def _seconds(text: str | None) -> float | None:
    """The seconds of a duration such as 30m.

    Raises:
        InputError: if it is none, or is 0.
    """
    from prunelab.core.errors import InputError

    if text is None:
        return None
    match = DURATION.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise InputError(f"--within: {text!r} is no time; valid: such as 90s, 30m or 1h")
    return float(match[1]) * SECONDS[match[2]]
