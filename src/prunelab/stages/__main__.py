"""`python -m prunelab.stages NAME ARGUMENTS`: runs a stage, such as `prune`.

It runs in a fork of a process that has loaded the packages, if there is one for this environment
(`prunelab warm`, `prunelab repro`), and by itself otherwise.
"""

import sys

from prunelab.stages.names import STAGES_WITH_TORCH, stage_names
from prunelab.warm.__main__ import run


def main() -> None:
    names = stage_names()
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(
            f"usage: python -m prunelab.stages NAME ARGUMENTS; valid names: {', '.join(names)}"
        )

    module = f"prunelab.stages.{sys.argv[1]}"
    run(module, sys.argv[2:], needs_torch=sys.argv[1] in STAGES_WITH_TORCH)


if __name__ == "__main__":
    main()
