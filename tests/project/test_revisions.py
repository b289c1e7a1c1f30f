"""Which commit a name stands for, where several experiments have it."""

import pytest
from helpers.studies import SHIPPED, StudyRepository

from prunelab.config.params import read_params
from prunelab.project.experiments import experiments
from prunelab.project.git import git
from prunelab.project.revisions import read_revisions


@pytest.fixture
def repository(tmp_path) -> StudyRepository:
    return StudyRepository(tmp_path)


def test_of_experiments_with_a_name_the_one_that_the_code_of_head_made_counts(repository):
    """Code that was changed and restored: what it measured is no longer derived from HEAD."""
    root, params = repository.folder, read_params(SHIPPED)
    repository.experiment("l1_channel-0.5", params, accuracy=0.8)
    repository.commit_code()
    repository.experiment("l1_channel-0.5", params, accuracy=0.9)
    (name,) = {experiment.name for experiment in experiments(root)}

    accuracies = []
    for _ in range(2):
        git(root, "revert", "--no-edit", "HEAD")  # at first to the first code, then to the second
        (result,), _ = read_revisions(root, [name])
        accuracies.append(result.metrics["accuracy"])

    assert accuracies == [0.8, 0.9]
