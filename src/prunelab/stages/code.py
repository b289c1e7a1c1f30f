"""Write, for every stage, a digest of each file of this package that it imports.

DVC does not follow imports. Stages depend on these files, so that an edit of the code makes stale
what uses it, and an edit of a comment nothing. A stage that imports the table of a kind may use
every entry of that kind, so it depends on all plugins that register one.
"""

from pathlib import Path

from prunelab.core import plugins
from prunelab.core.files import write_json
from prunelab.core.source_code import code_digests
from prunelab.stages.entry import run
from prunelab.stages.names import stage_names

SOURCE = Path(__file__).parents[2]
# What `config` makes of params.yaml is tracked by value: every stage lists the parameters that it
# reads. `warm` decides where a stage runs, and not what it computes.
UNTRACKED = frozenset({"prunelab.config", "prunelab.warm"})


def main(out: Path) -> None:
    """Write OUT/STAGE.json for every stage: the digests of files, by path."""
    plugins.current().require_readable()
    for name in stage_names():
        if name != "code":
            write_json(out / f"{name}.json", stage_digests(name))


def stage_digests(stage: str) -> dict[str, str]:
    """The digests of the files that a stage imports, those of plugins in the project included."""
    project = plugins.current()
    roots = {"prunelab": SOURCE, plugins.PACKAGE: project.folder.parent}
    module = f"prunelab.stages.{stage}"
    digests = code_digests([module], roots, UNTRACKED)

    modules = [module]
    for registration in project.registrations.values():
        table = plugins.TABLES[registration.kind].module.replace(".", "/")
        if f"{table}.py" in digests or f"{table}/__init__.py" in digests:
            modules.append(registration.module)
    if modules == [module]:
        return digests
    return code_digests(modules, roots, UNTRACKED, plugins.VOCABULARY)


if __name__ == "__main__":
    run(main)
