"""Which stages depend on which plugins."""

import json

import pytest
from helpers.params import PROJECT
from helpers.plugins import CRITERION, DATASET, METHOD, NETWORK, write_plugins

from prunelab.core import plugins
from prunelab.core.errors import InputError
from prunelab.core.stage_code import stage_digests
from prunelab.stages.code import main
from prunelab.stages.names import stage_names

PLUGINS = {"net": NETWORK, "rule": CRITERION, "methods": METHOD, "data": DATASET}
NETWORK_STAGES = {"train_base", "prune", "finetune", "evaluate", "sensitivity", "benchmark"}
STAGES_THAT_USE = {
    "net": NETWORK_STAGES,
    "rule": {"prune", "sensitivity"},
    "methods": {"prune", "sensitivity"},
    "data": {"prepare"},
}


def digests(project) -> dict[str, dict[str, str]]:
    plugins.forget()
    main(project / "out")
    return {file.stem: json.loads(file.read_text()) for file in (project / "out").iterdir()}


def of_plugins(digests: dict[str, str]) -> dict[str, str]:
    return {file: digest for file, digest in digests.items() if file.startswith("plugins/")}


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_counts_for_the_stages_that_read_its_table(project, name):
    write_plugins(project, **{name: PLUGINS[name]})

    using = {stage for stage, files in digests(project).items() if of_plugins(files)}

    assert using == STAGES_THAT_USE[name]


def test_without_plugins_the_digests_are_those_of_the_package(project):
    empty = digests(project)
    (project / "plugins/README.md").write_text("How to.\n")
    with_readme = digests(project)
    (project / "plugins/README.md").unlink()
    (project / "plugins").rmdir()

    assert empty == with_readme == digests(project)
    assert not any(of_plugins(files) for files in empty.values())


def test_a_plugin_adds_to_a_stage_only_itself_and_what_it_imports(project):
    before = digests(project)
    write_plugins(
        project,
        rule="from plugins.scale import SCALE\nimport prunelab.evaluation.layers\n" + CRITERION,
        scale="SCALE = 1\n",
        unused="SCALE = 2\n",
    )
    (project / "plugins/table.csv").write_text("1,2\n")

    after = digests(project)

    added = set(after["prune"]) - set(before["prune"])
    assert {"plugins/rule.py", "plugins/scale.py", "plugins/table.csv"} <= added
    assert "prunelab/evaluation/layers.py" in added
    assert "plugins/unused.py" not in added
    assert before["train_base"] == after["train_base"]


def test_an_edit_of_a_plugin_changes_its_stages_and_a_comment_none(project, monkeypatch):
    texts = {
        "first": NETWORK,
        "with a comment": f"# Mine.\n{NETWORK}",
        "edited": NETWORK.replace("nn.Flatten()", "nn.Flatten(1)"),
    }

    found = {}
    for name, text in texts.items():
        folder = project / name
        folder.mkdir()
        write_plugins(folder, net=text, data=DATASET)
        monkeypatch.chdir(folder)
        found[name] = digests(folder)

    assert found["with a comment"] == found["first"]
    edited, first = found["edited"], found["first"]
    assert {stage for stage in first if edited[stage] != first[stage]} == NETWORK_STAGES


def test_names_that_cannot_be_told_stop_the_stage(project):
    write_plugins(project, net="def f(:\n")

    with pytest.raises(InputError, match="plugins/net.py:1: SyntaxError"):
        main(project / "out")

    assert not (project / "out").exists()


def test_the_example_is_inert_for_stages_but_for_its_own_digest(monkeypatch):
    monkeypatch.chdir(PROJECT)
    without = {stage: stage_digests(stage) for stage in stage_names() if stage != "code"}

    monkeypatch.setattr(plugins, "FOLDER", plugins.Path("plugins"))

    added = {}
    for stage, files in without.items():
        after = stage_digests(stage)
        assert files.items() <= after.items()
        if set(after) - set(files):
            added[stage] = set(after) - set(files)
    expected = {stage: {"plugins/example_network.py"} for stage in NETWORK_STAGES}
    expected["prepare"] = {"plugins/example_data.py"}
    for stage in ("prune", "sensitivity"):
        expected[stage].add("plugins/example_method.py")
    # All that make batches read the table of augmentations.
    for stage in ("train_base", "prune", "finetune", "evaluate", "sensitivity"):
        expected[stage].add("plugins/example_training.py")
    expected["evaluate"].add("plugins/example_metric.py")
    assert added == expected
