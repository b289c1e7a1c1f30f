import pytest
import torch

from prunelab.core.errors import InputError
from prunelab.models.catalogue import build, build_on_meta
from prunelab.models.frozen import freeze, train_mode


def frozen_of(patterns: list[str]) -> set[str]:
    model = build_on_meta("resnet8", 10, (1, 8, 8))
    freeze(model, patterns)
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def test_patterns_reach_layers_all_that_is_in_them_and_nothing_else():
    assert frozen_of([]) == set()
    assert frozen_of(["conv1"]) == {"conv1.weight"}
    assert frozen_of(["layer1"]) == frozen_of(["layer1.*"])
    assert frozen_of(["layer[12]"]) == frozen_of(["layer1", "layer2"])
    names = {name for name, _ in build_on_meta("resnet8", 10, (1, 8, 8)).named_parameters()}
    assert frozen_of(["layer1"]) == {name for name in names if name.startswith("layer1.")}
    assert frozen_of(["*.bn2"]) == {name for name in names if ".bn2." in name}
    assert "class_token" in {
        name for name, p in _frozen_vit("class_token").named_parameters() if not p.requires_grad
    }


def _frozen_vit(pattern: str) -> torch.nn.Module:
    model = build_on_meta("vit_tiny", 10, (1, 8, 8))
    freeze(model, [pattern])
    return model


def test_patterns_without_a_layer_and_networks_without_training_are_refused_all_at_once():
    model = build_on_meta("resnet8", 10, (1, 8, 8))
    with pytest.raises(InputError) as refused:
        freeze(model, ["layer9", "conv1", "*"])
    assert len(refused.value.problems) == 2
    assert "'layer9' matches no layer" in refused.value.problems[0]
    assert "layer1" in refused.value.problems[0]
    assert "leaves nothing" in refused.value.problems[1]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_training_changes_neither_frozen_weights_nor_their_running_statistics(trainer, recipe):
    model = build("resnet8", 10, (1, 8, 8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze(model, ["conv1", "bn1", "layer1"])
    trainer.fit(model, recipe)
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert kept == {name for name in before if name.startswith(("conv1.", "bn1.", "layer1."))}


def test_all_else_is_in_training_mode():
    model = build("resnet8", 10, (1, 8, 8)).eval()
    freeze(model, ["layer2"])
    train_mode(model)
    still = {name for name, module in model.named_modules() if not module.training}
    assert still == {f"layer2.0.bn{n}" for n in (1, 2)}
