"""Which code a stage runs: a digest of each file of this package, and of plugins, that it imports.

The files are read; nothing of them is imported.
"""

from pathlib import Path

from prunelab.core import plugins
from prunelab.core.source_code import code_digests

SOURCE = Path(__file__).parents[2]
# What `config` makes of params.yaml is tracked by value: every stage lists the parameters that it
# reads. `warm` decides where a stage runs, and not what it computes.
UNTRACKED = frozenset({"prunelab.config", "prunelab.warm"})


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
