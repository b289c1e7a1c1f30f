"""`prunelab check`: help and what is printed; check.py does the work."""

import sys
from pathlib import Path

import typer

from prunelab.commands.common import reporting_errors


def check() -> None:
    """Find everything wrong with params.yaml and the files it names, before any work starts.

    It prints one line per problem, and the exit status is 1 if there are any. `prunelab repro` runs
    it first. Checks that build the network run again only if parameters, code or packages have
    changed since they last passed (.prunelab/passed_checks).

    It also repairs what a killed DVC may leave behind: a truncated dvc.lock, and locks of processes
    that no longer exist.

    Example:
      prunelab check && dvc repro
    """
    from prunelab.commands.check.check import find_problems
    from prunelab.commands.check.notes import find_notes
    from prunelab.core.errors import one_line
    from prunelab.project.recovery import repair

    with reporting_errors():
        for line in repair(Path.cwd()):
            print(line)
        problems = find_problems()
        notes = [] if problems else find_notes()

    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise typer.Exit(1)
    for note in notes:
        print(one_line(note))
    print("params.yaml and the files it names are in order")
