"""What all commands share: how they report problems, failures and Ctrl-C."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import typer

from prunelab.core.lifecycle import INTERRUPTED


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Print what is refused, a line for each problem, and end with 1."""
    from prunelab.core.errors import InputError, describe_failure

    try:
        yield
    except InputError as refused:
        for problem in refused.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(1) from None
    except (OSError, MemoryError, RuntimeError) as error:
        if (told := describe_failure(error)) is None:
            raise
        print(told, file=sys.stderr)
        raise typer.Exit(1) from None


@contextmanager
def interruptible() -> Iterator[None]:
    """Say on Ctrl-C how to go on, and end with 130."""
    try:
        yield
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        raise typer.Exit(130) from None


def report_failures(failures: Mapping[str, str], count: int) -> None:
    """Print the end of the log of every setting that failed; end with 1 if there are any."""
    from prunelab.core.errors import one_line

    for setting, lines in failures.items():
        shown = "\n".join(map(one_line, lines.splitlines()))
        print(f"\n{one_line(setting)} failed; the end of its log:\n{shown}", file=sys.stderr)
    if failures:
        print(
            f"\n{len(failures)} of {count} settings failed; the same command tries them again",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def print_line(line: str) -> None:
    print(line, flush=True)


LOG_TAIL_LINES = 15


def last_lines(log: Path) -> str:
    """The end of a log, for people to read."""
    lines = (
        [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if log.exists()
        else []
    )
    return "\n".join(lines[-LOG_TAIL_LINES:])
