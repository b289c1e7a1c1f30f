"""How every stage starts and how it fails: one line per problem and the way back, never a traceback for bad input."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import wraps

import typer

from prunelab.core.errors import InputError, describe_failure
from prunelab.core.lifecycle import EXIT_GRACE_S, process_count

Main = Callable[..., None]


def alone(main: Main) -> Main:
    """A stage's function as it is for one process, which is refused where torchrun has started several."""

    @wraps(main)
    def start(*args: object, **kwargs: object) -> None:
        if (several := process_count()) > 1:
            raise InputError(
                f"this stage runs as one process, not as {several}; only train_base and finetune share their work"
            )
        main(*args, **kwargs)

    return start


def run(main: Main, by: Callable[[Main], Main] = alone) -> None:
    """Run a stage's function as a command, in one process or, `by` `task.together`, in several.

    Its arguments are typed by Typer.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(by(main))
    try:
        app()
    except InputError as refused:
        _let_another_speak()
        _explain(refused)
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError) as error:
        if (told := describe_failure(error)) is None:
            raise
        _let_another_speak()
        print(told, file=sys.stderr)
        sys.exit(1)


def _let_another_speak() -> None:
    """What goes wrong in all processes of a machine is said once, by its first, upon which the others are ended."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(EXIT_GRACE_S)


def _explain(refused: InputError) -> None:
    # A stage checks only what it uses; the full check adds whatever else is wrong, so that one round mends it all.
    full = subprocess.run(
        [sys.executable, "-m", "prunelab", "check"], capture_output=True, text=True, check=False
    )
    known = full.stderr.splitlines() if full.returncode == 1 else []
    own = [line for line in refused.problems if not any(line in other for other in known)]
    for line in [*own, *known]:
        print(line, file=sys.stderr)
    if "DVC_STAGE" in os.environ:
        # DVC has already changed params.yaml (exp run -S) and deleted this stage's outputs.
        way_back = "git checkout params.yaml && dvc checkout"
        print(f"nothing was computed; the way back: {way_back}", file=sys.stderr)
