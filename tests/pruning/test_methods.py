"""The table of methods: every part that it names exists, and nothing is there that none needs."""

import subprocess
import sys

import pytest
import torch
from helpers.modules import image_batches, residual_net

from prunelab.core.plurals import UNITS
from prunelab.pruning.criteria import CRITERIA, CalibrationData
from prunelab.pruning.methods import DATA_CRITERIA, KINDS, METHODS
from prunelab.pruning.schedules import SCHEDULES
from prunelab.pruning.sensitivity import METHODS as SENSITIVITY_METHODS
from prunelab.pruning.structured.groups import SCOPES
from prunelab.pruning.unstructured.granularity import GRANULARITIES
from prunelab.pruning.unstructured.select import Scope


@pytest.mark.parametrize("name", METHODS)
def test_every_part_of_a_method_exists(name):
    method = METHODS[name]

    assert method.criterion in CRITERIA
    assert method.schedule in SCHEDULES
    if method.masks:
        assert method.granularity in GRANULARITIES
        assert method.scope in list(Scope)
    else:
        assert method.granularity in KINDS
        assert method.scope in SCOPES


def test_every_part_is_used_by_a_method():
    used = {
        part
        for method in METHODS.values()
        for part in (method.criterion, method.granularity, method.scope, method.schedule)
    }

    assert used == {*CRITERIA, *GRANULARITIES, *KINDS, *Scope, *SCOPES, *SCHEDULES}


def test_all_that_can_be_removed_has_a_name_for_messages():
    assert {*KINDS, "weight"} == UNITS.keys()
    assert SENSITIVITY_METHODS.keys() <= UNITS.keys()


def test_reading_the_tables_imports_no_torch():
    code = (
        "import sys; import prunelab.pruning.methods, prunelab.models.catalogue, "
        "prunelab.datasets.datasets; print('torch' in sys.modules)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert result.stdout.strip() == b"False"


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_depend_on_examples_only_for_criteria_that_are_said_to_need_data(name):
    scores = []
    for seed in (0, 1):
        batches = image_batches(seed=seed)
        calibration = CalibrationData(torch.Generator().manual_seed(0), lambda: batches)  # noqa: B023
        scores.append(CRITERIA[name](residual_net(), calibration))

    first, second = scores
    same = all(torch.equal(score, second[weight]) for weight, score in first.items())
    assert same != (name in DATA_CRITERIA)
