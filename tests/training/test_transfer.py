"""What recipes do for pretrained networks: a head first, slower layers, norms that keep still."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.interrupted import StopAfterEpoch, StoppedError
from helpers.networks import DIGITS_SHAPE, with_store
from helpers.params import PROJECT, train_params, with_changes
from torch import Tensor, nn

from prunelab.config.params import Finetune, read_params
from prunelab.config.restart import Restart
from prunelab.core.errors import InputError
from prunelab.data.augment import Augmentation
from prunelab.models.frozen import check_transfer, freeze
from prunelab.models.networks import build, find_head
from prunelab.training.checkpoints import Checkpoint
from prunelab.training.optimizers import OPTIMIZERS
from prunelab.training.retraining import retraining
from prunelab.training.trainer import Trainer

OFF = {"freeze_epochs": 0, "backbone_rate": 1.0, "norm": "train"}
HEAD = "linear"
IN_HEAD = {"linear.weight", "linear.bias"}


def network() -> nn.Module:
    return build("resnet8", 10, DIGITS_SHAPE)


def changed_names(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def statistics(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_buffers()}


@pytest.fixture
def head_trainer(trainer: Trainer) -> Trainer:
    return replace(trainer, head=HEAD)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_keys_that_are_off_change_no_bit(optimizer, trainer, head_trainer, recipe):
    settings = with_changes(recipe, optimizer=optimizer, learning_rate=0.01).model_dump()
    older = Finetune(**{key: value for key, value in settings.items() if key not in OFF})
    without, with_them = network(), network()

    trainer.fit(without, older)
    head_trainer.fit(with_them, Finetune(**settings | OFF))

    assert changed_names(without.state_dict(), with_them.state_dict()) == set()


def test_shipped_parameters_turn_the_keys_off():
    shipped = read_params(PROJECT / "params.yaml")

    for section in ("train", "finetune"):
        assert {key: shipped[section][key] for key in OFF} == OFF


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_the_head_changes_in_the_first_epochs(optimizer, head_trainer, recipe):
    recipe = with_changes(
        recipe, epochs=3, freeze_epochs=2, optimizer=optimizer, learning_rate=0.01
    )
    model = network()

    result = head_trainer.fit(model, recipe, keep_epochs={0, 2})

    assert changed_names(result.kept[0], result.kept[2]) == IN_HEAD
    assert changed_names(result.kept[2], model.state_dict()) == set(model.state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_training_the_head_alone_is_a_regression_on_fixed_features(head_trainer, recipe):
    recipe = with_changes(
        recipe,
        **{"epochs": 2, "freeze_epochs": 2, "momentum": 0.0, "weight_decay": 0.0},
        **{"schedule": "constant", "warmup": 0.0, "learning_rate": 0.1},
    )
    plain = replace(head_trainer, augmentation=Augmentation(), seed=5)
    model, expected = network(), network().eval()

    plain.fit(model, recipe)

    weight, bias = expected.linear.weight.detach(), expected.linear.bias.detach()
    expected.linear = nn.Identity()
    for epoch in range(2):
        batches = plain.train_loader.shuffled(64, Augmentation(), seed=5, epoch=epoch)
        for images, labels in batches:
            features = expected(images).detach()
            shares = F.softmax(features @ weight.T + bias, dim=1)
            errors = (shares - F.one_hot(labels, 10)) / len(labels)
            weight, bias = weight - 0.1 * errors.T @ features, bias - 0.1 * errors.sum(0)
    torch.testing.assert_close(model.linear.weight, weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.linear.bias, bias, rtol=1e-4, atol=1e-5)


def test_layers_frozen_by_name_stay_frozen_afterwards(head_trainer, recipe):
    model = network()
    freeze(model, ["conv1", "bn1"])

    result = head_trainer.fit(model, with_changes(recipe, freeze_epochs=1), keep_epochs={0})

    unchanged = set(model.state_dict()) - changed_names(result.kept[0], model.state_dict())
    assert unchanged == {name for name in model.state_dict() if name.startswith(("conv1.", "bn1."))}
    assert not model.conv1.weight.requires_grad


def test_a_frozen_head_leaves_nothing_to_train_and_all_layers_as_they_were(head_trainer, recipe):
    model = network()
    freeze(model, [HEAD])
    trained = [parameter.requires_grad for parameter in model.parameters()]

    with pytest.raises(InputError, match="trains only linear"):
        head_trainer.fit(model, with_changes(recipe, freeze_epochs=1))

    assert [parameter.requires_grad for parameter in model.parameters()] == trained


def test_random_layers_are_not_frozen_under_a_head():
    recipe = train_params(freeze_epochs=1)

    check_transfer(recipe, "imagenet")
    check_transfer(train_params(), "none")
    with pytest.raises(InputError, match="would stay random"):
        check_transfer(recipe, "none")


def test_statistics_that_no_weights_have_given_are_not_kept():
    recipe = train_params(norm="eval")

    check_transfer(recipe, "imagenet")
    with pytest.raises(InputError, match="would keep mean 0 and variance 1"):
        check_transfer(recipe, "none")


@pytest.mark.parametrize("rate", [0.5, 0.01])
def test_layers_behind_the_head_take_smaller_steps(rate, head_trainer, recipe):
    """One step of plain descent is the rate times the same gradient."""
    recipe = with_changes(
        recipe,
        **{"epochs": 1, "batch_size": 256, "momentum": 0.0, "weight_decay": 0.01},
        **{"schedule": "constant", "warmup": 0.0, "learning_rate": 0.5},
    )
    before, whole, part = (network() for _ in range(3))

    head_trainer.fit(whole, recipe)
    head_trainer.fit(part, with_changes(recipe, backbone_rate=rate))

    others = dict(before.named_parameters())
    wholes = dict(whole.named_parameters())
    for name, parameter in part.named_parameters():
        factor = 1.0 if name in IN_HEAD else rate
        expected = others[name] + factor * (wholes[name] - others[name])
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_norms_in_evaluation_mode_keep_statistics_and_learn_weights(head_trainer, recipe):
    model = network()

    result = head_trainer.fit(model, with_changes(recipe, norm="eval"), keep_epochs={0})

    changed = changed_names(result.kept[0], model.state_dict())
    assert changed == set(model.state_dict()) - statistics(model)


def test_a_step_with_norms_in_evaluation_mode_has_the_gradient_of_that_mode(head_trainer, recipe):
    recipe = with_changes(
        recipe,
        **{"epochs": 1, "batch_size": 256, "momentum": 0.0, "weight_decay": 0.0, "norm": "eval"},
        **{"schedule": "constant", "warmup": 0.0, "learning_rate": 0.1},
    )
    model, expected = network(), network().eval()

    replace(head_trainer, seed=5).fit(model, recipe)

    loader = head_trainer.train_loader
    ((images, labels),) = loader.shuffled(256, head_trainer.augmentation, seed=5, epoch=0)
    F.cross_entropy(expected(images), labels).backward()
    for (name, new), old in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.1 * old.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_stopped_before_or_after_the_layers_thaw_ends_with_the_same_bits(
    optimizer, head_trainer, recipe, tmp_path
):
    recipe = with_changes(
        recipe,
        **{"epochs": 4, "freeze_epochs": 2, "backbone_rate": 0.1, "norm": "eval"},
        **{"optimizer": optimizer, "learning_rate": 0.01},
    )
    uninterrupted, resumed = network(), network()
    expected = head_trainer.fit(uninterrupted, recipe)

    path = tmp_path / "0.pt"
    for _ in range(3):
        with pytest.raises(StoppedError):
            with_store(head_trainer, StopAfterEpoch(path)).fit(network(), recipe)
    result = with_store(head_trainer, Checkpoint(path)).fit(resumed, recipe)

    assert result.history == expected.history
    assert changed_names(uninterrupted.state_dict(), resumed.state_dict()) == set()


def test_new_random_weights_are_trained_as_no_pretrained_network(recipe):
    base = train_params(freeze=["layer1"], freeze_epochs=2, backbone_rate=0.1, norm="eval")

    from_pretrained, _ = retraining(Restart.INIT, base, recipe)
    from_random, _ = retraining(Restart.SCRATCH, base, recipe)

    assert from_pretrained.model_dump() == base.model_dump() | {
        "epochs": base.epochs + recipe.epochs
    }
    assert from_random.model_dump() == from_pretrained.model_dump() | OFF | {"freeze": []}


@pytest.mark.parametrize("name", ["resnet8", "vgg11_bn", "mobilenet_v3_small"])
def test_every_network_has_a_head_that_can_be_trained_alone(name, head_trainer, recipe):
    model = build(name, 10, DIGITS_SHAPE)
    head = find_head(name, model)

    result = replace(head_trainer, head=head).fit(
        model, with_changes(recipe, epochs=1, freeze_epochs=1), keep_epochs={0}
    )

    changed = changed_names(result.kept[0], model.state_dict())
    assert changed == {f"{head}.weight", f"{head}.bias"}
