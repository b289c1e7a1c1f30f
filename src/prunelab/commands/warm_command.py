"""`prunelab warm`: arguments, help and printed lines; `warm.control` does the work."""

from typing import Annotated

from typer import Option

from prunelab.commands.common import reporting_errors


def warm(
    stop: Annotated[
        bool, Option("--stop", help="End the processes of all your environments.")
    ] = False,
    idle_minutes: Annotated[
        float, Option(min=0.1, help="It ends by itself after so many minutes without a stage.")
    ] = 15.0,
) -> None:
    """Keep a process that has torch and other packages loaded, so that stages start at once.

    Stages that `dvc repro` and `dvc exp run` start then run in forks of it, with the same results.
    They always run the code that is in the working tree. Another environment, other packages or
    another user do not share it: their stages start by themselves, as without it.

    `prunelab repro`, `sweep` and `study run` keep such a process of their own while they run.

    Example:
      prunelab warm && dvc exp run -S ratio=0.8
    """
    from prunelab.warm import control

    with reporting_errors():
        if stop:
            stopped = control.stop()
            if not stopped:
                print("no loaded process runs")
            for number in stopped:
                print(f"stopped process {number}")
            return

        number, is_new = control.start(60 * idle_minutes)

    if is_new:
        print(f"process {number} has loaded the packages; stages now start in forks of it")
        print(
            f"it ends after {idle_minutes:g} minutes without a stage, or by: prunelab warm --stop"
        )
    else:
        print(f"process {number} has the packages loaded already")
