"""The code in docs/python.md and in the notebook runs as it stands, and prints what it says."""

import json

import pytest
import torch
from helpers.documents import blocks, cells, run
from helpers.params import PROJECT

GUIDE = PROJECT / "docs/python.md"
NOTEBOOK = PROJECT / "docs/prune_your_network.ipynb"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Files that the code writes stay out of the project, and its seed out of other tests."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        yield


def test_the_code_of_the_guide_runs_and_prints_what_the_guide_shows(tmp_path):
    names = {"__name__": "guide"}
    printed, shown = "", 0
    for language, text in blocks(GUIDE):
        if language == "python":
            printed = run(text, "docs/python.md", names)
        else:
            assert printed == text
            shown += 1

    assert shown == 1
    assert (tmp_path / "digits.safetensors").exists()
    accuracy = names["prunelab"].evaluate(names["pruned"], names["test_data"]).accuracy
    assert accuracy > 0.8


@pytest.mark.slow  # it trains for a minute
def test_the_cells_of_the_notebook_run_in_order(tmp_path):
    names = {"__name__": "notebook"}
    for code in cells(NOTEBOOK):
        run(code, "docs/prune_your_network.ipynb", names)

    assert (tmp_path / "pruned.pt2").exists()
    assert [ratio for ratio, *_ in names["rows"]] == [0.5, 0.75, 0.9]


def test_the_notebook_is_one_that_jupyter_opens_and_holds_no_outputs():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))

    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
