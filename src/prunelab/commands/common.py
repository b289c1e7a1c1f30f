"""What commands share: how they report problems, failures and Ctrl-C, the end of a log, cores."""

import os
import select
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from prunelab import __version__
from prunelab.core.lifecycle import INTERRUPTED, set_load_time_variables

LOG_TAIL_LINES = 15
READER_LEFT = 141  # exit status: 128 and SIGPIPE, as shells report it
STAYING = ("predict", "new")  # commands that do not go to the top of the project
# With these, Git tells its hooks and aliases which repository they run in. Git commands in a clone
# would then work on that repository instead of the clone.
GIT_REPOSITORY_VARIABLES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
)


def prepare_process() -> None:
    """Prepare the process of a command, and with it those that it starts.

    Git finds the repository by the current folder, even if Git started this process. Libraries
    behave as in stages.
    """
    set_load_time_variables()
    for name in GIT_REPOSITORY_VARIABLES:
        os.environ.pop(name, None)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"prunelab {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
    ),
]


def start(context: typer.Context, version: Version = False) -> None:
    """What precedes every command: forget Git's variables, and go to the top of the project.

    A command that needs no project stays where it is, since files are what it is about.
    """
    from prunelab.core.project_root import enter

    prepare_process()
    _replace_unprintable()
    if context.invoked_subcommand not in STAYING:
        with reporting_errors():
            enter()


def _replace_unprintable() -> None:
    """Print `?` for what a terminal in another encoding than UTF-8 lacks, such as ± or →."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def core_count() -> int:
    """The cores that this process may use: all, if the system does not let us choose (macOS)."""
    from prunelab.core.cores import available_cores

    return len(available_cores()) or os.cpu_count() or 1


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Print one line per problem and exit with 1, if the input or the machine is at fault.

    If nobody reads stdout any more, as after `| head`, exit with 141 and print nothing.
    """
    from prunelab.core.errors import InputError, describe_failure, one_line
    from prunelab.core.plugins import failure_lines
    from prunelab.core.terminal import paint

    try:
        yield
    except InputError as error:
        for problem in error.problems:
            print(paint(problem, "red", sys.stderr), file=sys.stderr)
        raise typer.Exit(1) from None
    except (Exception, SystemExit) as error:  # a plugin may end the program
        if isinstance(error, BrokenPipeError) and _reader_left():
            raise typer.Exit(READER_LEFT) from None
        message = describe_failure(error)
        lines = [message] if message is not None else failure_lines(error)
        if not lines:
            raise
        for line in lines:
            print(paint(one_line(line), "red", sys.stderr), file=sys.stderr)
        raise typer.Exit(1) from None


def _reader_left() -> bool:
    """Whether stdout is a pipe that nobody reads; if so, what is left for it is thrown away.

    Other pipes break too, such as one to a worker that died, and those failures must be reported.
    """
    try:
        stdout = sys.stdout.fileno()
    except (OSError, ValueError):  # it is no file, or it is closed
        return False

    poll = select.poll()
    poll.register(stdout, 0)  # a broken pipe gives POLLERR or POLLHUP without being asked for
    if not poll.poll(0):
        return False

    # Otherwise the interpreter would flush once more at its end, and complain.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout)
    os.close(nowhere)
    return True


@contextmanager
def interruptible() -> Iterator[None]:
    """On Ctrl-C, print how to continue and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        raise typer.Exit(130) from None


def report_failures(failures: Mapping[str, str], count: int) -> None:
    """Print the end of each failed setting's log, and exit with 1 if there are any.

    `failures` maps settings to the ends of their logs; `count` is the number of all settings.
    """
    from prunelab.core.errors import one_line

    if not failures:
        return
    for setting, log in failures.items():
        lines = "\n".join(map(one_line, log.splitlines()))
        print(f"\n{one_line(setting)} failed; the end of its log:\n{lines}", file=sys.stderr)
    print(
        f"\n{len(failures)} of {count} settings failed; run the same command again to retry them",
        file=sys.stderr,
    )
    raise typer.Exit(1)


def print_line(line: str) -> None:
    """Print a line at once, even into a pipe."""
    print(line, flush=True)


def last_lines(log: Path) -> str:
    """The last lines of a log that are not blank; empty if there is no log."""
    if not log.exists():
        return ""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-LOG_TAIL_LINES:])
