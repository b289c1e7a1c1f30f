"""Freezing layers by pattern, and training around them."""

import pytest
import torch

from prunelab.core.errors import InputError
from prunelab.models.frozen import freeze, train_mode
from prunelab.models.networks import build, build_on_meta


def parameter_names() -> set[str]:
    return {name for name, _ in build_on_meta("resnet8", 10, (1, 8, 8)).named_parameters()}


def frozen_names(patterns: list[str], model: str = "resnet8") -> set[str]:
    """The parameters that these patterns freeze."""
    network = build_on_meta(model, 10, (1, 8, 8))
    freeze(network, patterns)
    return {name for name, parameter in network.named_parameters() if not parameter.requires_grad}


def test_a_pattern_freezes_a_layer_with_all_that_is_in_it():
    in_layer1 = {name for name in parameter_names() if name.startswith("layer1.")}

    assert frozen_names([]) == set()
    assert frozen_names(["conv1"]) == {"conv1.weight"}
    assert frozen_names(["layer1"]) == frozen_names(["layer1.*"]) == in_layer1


def test_a_pattern_may_have_wildcards():
    in_bn2 = {name for name in parameter_names() if ".bn2." in name}

    assert frozen_names(["layer[12]"]) == frozen_names(["layer1", "layer2"])
    assert frozen_names(["*.bn2"]) == in_bn2


def test_a_pattern_matches_parameters_without_a_layer():
    assert "class_token" in frozen_names(["class_token"], model="vit_tiny")


def test_all_bad_patterns_are_reported_at_once_and_nothing_is_frozen():
    model = build_on_meta("resnet8", 10, (1, 8, 8))

    with pytest.raises(InputError) as error:
        freeze(model, ["layer9", "conv1", "*"])

    unknown, nothing_left = error.value.problems
    assert "'layer9' matches no layer" in unknown
    assert "layer1" in unknown
    assert "leaves nothing" in nothing_left
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_training_changes_no_frozen_weights_and_no_frozen_statistics(trainer, recipe):
    model = build("resnet8", 10, (1, 8, 8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze(model, ["conv1", "bn1", "layer1"])

    trainer.fit(model, recipe)

    unchanged = {
        name for name, value in model.state_dict().items() if torch.equal(value, before[name])
    }
    frozen_prefixes = ("conv1.", "bn1.", "layer1.")
    assert unchanged == {name for name in before if name.startswith(frozen_prefixes)}


def test_train_mode_leaves_only_frozen_norms_in_eval_mode():
    model = build("resnet8", 10, (1, 8, 8)).eval()
    freeze(model, ["layer2"])

    train_mode(model)

    in_eval_mode = {name for name, module in model.named_modules() if not module.training}
    assert in_eval_mode == {"layer2.0.bn1", "layer2.0.bn2"}
