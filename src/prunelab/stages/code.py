"""Write, for every stage, a digest of each file of this package that it imports.

DVC does not follow imports. Stages depend on these files, so that an edit of the code makes stale
what uses it, and an edit of a comment nothing.
"""

from pathlib import Path

from prunelab.core.files import write_json
from prunelab.core.source_code import code_digests
from prunelab.stages.entry import run
from prunelab.stages.names import stage_names

SOURCE = Path(__file__).parents[2]
# What `config` makes of params.yaml is tracked by value: every stage lists the parameters that it
# reads. `warm` decides where a stage runs, and not what it computes.
UNTRACKED = frozenset({"config", "warm"})


def main(out: Path) -> None:
    """Write OUT/STAGE.json for every stage: the digests of files, by path."""
    for name in stage_names():
        if name != "code":
            digests = code_digests(f"prunelab.stages.{name}", SOURCE, UNTRACKED)
            write_json(out / f"{name}.json", digests)


if __name__ == "__main__":
    run(main)
