"""How every stage starts and fails: one line per problem, never a traceback for bad input."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps

import typer

from prunelab.core.errors import FILES_UNCHANGED, InputError, describe_failure
from prunelab.core.lifecycle import EXIT_GRACE_S, process_count, start_collections
from prunelab.core.plugins import failure_lines

Main = Callable[..., None]


def single_process(main: Main) -> Main:
    """Wrap a stage's function for one process; it is an error if torchrun started several."""

    @wraps(main)
    def start(*args: object, **kwargs: object) -> None:
        count = process_count()
        if count > 1:
            raise InputError(
                f"this stage runs as one process, not as {count}; "
                "only train_base and finetune can share their work. "
                "Start it without torchrun, or with one process"
            )
        main(*args, **kwargs)

    return start


def run(main: Main, wrapper: Callable[[Main], Main] = single_process) -> None:
    """Run a stage's function as a command whose arguments Typer reads from its signature.

    `wrapper` decides how many processes run it: `single_process`, or `task.distributed`.
    """
    start_collections()
    try:
        _command(wrapper(main))()
    except InputError as error:
        _let_first_process_report()
        print_problems(error)
        sys.exit(1)
    except (Exception, SystemExit) as error:  # a plugin may end the program
        message = describe_failure(error, state=_state_of_files())
        if message is not None:
            _let_first_process_report()
            print(message, file=sys.stderr)
            if isinstance(error, FileNotFoundError):  # perhaps a parameter names the file
                _print_lines(_check_lines())
            sys.exit(1)

        lines = failure_lines(error)
        if not lines:
            raise
        _let_first_process_report()
        print_problems(InputError(lines))
        sys.exit(1)


def call(main: Main, arguments: Sequence[str]) -> None:
    """Call a stage's function in this process, with arguments as in dvc.yaml.

    Raises:
        InputError: or anything else that the stage raises.
    """
    command = typer.main.get_command(_command(single_process(main)))
    # Not by `command.main`, which makes an exit code of Ctrl-C.
    with command.make_context(main.__module__, list(arguments)) as context:
        command.invoke(context)


def _command(main: Main) -> typer.Typer:
    """A command whose arguments Typer reads from the signature of a stage's function."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(main)
    return app


def _let_first_process_report() -> None:
    """Wait in all processes of a machine but the first, which reports and ends the others."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(EXIT_GRACE_S)


def _state_of_files() -> str:
    """What has become of the files that were there before this stage started."""
    if "DVC_STAGE" not in os.environ:
        return FILES_UNCHANGED
    return "DVC has deleted this stage's earlier outputs, which `dvc checkout` restores."


def print_problems(error: InputError) -> None:
    """Print the problems of a stage, and all others that `prunelab check` finds.

    A stage checks only what it uses. The full check adds the rest, so that one round of edits is
    enough.
    """
    check_lines = _check_lines()
    own_lines = []
    for problem in error.problems:
        if not any(problem in line for line in check_lines):
            own_lines.append(problem)
    _print_lines([*own_lines, *check_lines])

    # DVC has already changed params.yaml (exp run -S) and deleted this stage's outputs.
    if "DVC_STAGE" in os.environ:
        recovery_hint = "git checkout params.yaml && dvc checkout"
        print(
            f"nothing was computed; to restore the previous state: {recovery_hint}", file=sys.stderr
        )


def _check_lines() -> list[str]:
    """The problems that `prunelab check` finds."""
    check = subprocess.run(
        [sys.executable, "-m", "prunelab", "check"], capture_output=True, text=True, check=False
    )
    if check.returncode != 1:
        return []
    return check.stderr.splitlines()


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)
