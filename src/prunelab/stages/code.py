"""Write, for every stage, a digest of each file of this package that it imports.

DVC does not follow imports. Stages depend on these files, so that an edit of the code makes stale
what uses it, and an edit of a comment nothing. A stage that imports the table of a kind may use
every entry of that kind, so it depends on all plugins that register one.
"""

from pathlib import Path

from prunelab.core import plugins
from prunelab.core.files import write_json
from prunelab.core.stage_code import stage_digests
from prunelab.stages.entry import run
from prunelab.stages.names import stage_names


def main(out: Path) -> None:
    """Write OUT/STAGE.json for every stage: the digests of files, by path."""
    plugins.current().require_readable()
    for name in stage_names():
        if name != "code":
            write_json(out / f"{name}.json", stage_digests(name))


if __name__ == "__main__":
    run(main)
