"""`python -m prunelab.warm MODULE ARGUMENTS`: runs a module as `python -m MODULE` does.

It runs in a fork of a loaded process, if there is one for this environment, and by itself
otherwise.
"""

import runpy
import sys

from prunelab.warm.client import exit_as, run_in_fork


def run(module: str, arguments: list[str], *, needs_torch: bool = True) -> None:
    """Run a module. `needs_torch`: whether it waits for a process that is still loading."""
    status = run_in_fork(module, arguments, needs_torch=needs_torch)
    if status is not None:
        exit_as(status)

    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m prunelab.warm MODULE ARGUMENTS")
    run(sys.argv[1], sys.argv[2:])
