"""Schedules: the ratios they pass through, the masks they hold, the weights they return to."""

import itertools
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from helpers.networks import DIGITS_SHAPE
from helpers.params import prune_spec, train_params
from torch import nn

from prunelab.config.restart import Restart
from prunelab.core.errors import InputError
from prunelab.models.cost import parameters
from prunelab.models.networks import build, prunable_weights
from prunelab.models.norms import recalibrate
from prunelab.pruning.prune import prune
from prunelab.pruning.pruner import PruneResult
from prunelab.pruning.schedules import DenseWeights
from prunelab.pruning.unstructured.mask_pruner import MaskPruner
from prunelab.training import masking
from prunelab.training.callbacks import Callback
from prunelab.training.checkpoints import Checkpoint
from prunelab.training.distillation import Teacher
from prunelab.training.retraining import Retrainer, retraining

Weights = dict[str, torch.Tensor]


def distinct_dense_weights(model: nn.Module) -> DenseWeights:
    """Weights to restart from that differ from the network's own in known ways."""
    init, rewind = {}, {}
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            init[name], rewind[name] = value + 0.5, value * 2
        else:
            init[name] = rewind[name] = value

    fresh = partial(build, "resnet8", 10, DIGITS_SHAPE, 77)
    return DenseWeights(init=init, rewind=rewind, fresh=fresh)


@dataclass(frozen=True)
class Training:
    """One training within a schedule, with the weights before and after it."""

    recipe: str
    before: Weights
    after: Weights


class RecordingRetrainer(Retrainer):
    """Records every training."""

    def __init__(self, retrainer: Retrainer):
        super().__init__(retrainer.trainer, retrainer.finetune, retrainer.base)
        object.__setattr__(self, "trainings", [])

    def fine_tune(self, model, epochs, *, callback, name):
        before = copy_weights(model)
        result = super().fine_tune(model, epochs, callback=callback, name=name)
        self.trainings.append(Training("finetune", before, copy_weights(model)))
        return result

    def retrain_from_rewind(self, model, *, callback, name):
        before = copy_weights(model)
        result = super().retrain_from_rewind(model, callback=callback, name=name)
        self.trainings.append(Training("base", before, copy_weights(model)))
        return result


def copy_weights(model: nn.Module) -> Weights:
    return {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}


@dataclass(frozen=True)
class Pruned:
    """A pruned network and how it came about."""

    model: nn.Module
    result: PruneResult
    trainings: list[Training]
    dense_weights: DenseWeights


def run(method: str, retrainer: Retrainer, ratio: float = 0.7, **settings: object) -> Pruned:
    """Prune a network by a method, with three iterations of one epoch unless settings say else."""
    model = build("resnet8", 10, DIGITS_SHAPE, seed=1)

    # Biases of norms as after some training: a zeroed unit with a bias of 0 gets no gradient.
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.fill_(0.1)

    dense_weights = distinct_dense_weights(model)
    recording = RecordingRetrainer(retrainer)
    result = prune(
        model,
        "resnet8",
        prune_spec(method, ratio, **{"epochs": 1, "iterations": 3} | settings),
        shape=DIGITS_SHAPE,
        seed=0,
        retrainer=recording,
        dense_weights=dense_weights,
    )
    return Pruned(model, result, recording.trainings, dense_weights)


def sparsity(weights: Weights) -> float:
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    return zeros / sum(weight.numel() for weight in weights.values())


def test_iterative_steps_remove_equal_shares_of_what_is_left(retrainer):
    pruned = run("l1_unstructured_iterative", retrainer, ratio=1 - 0.8**3)

    kept = [1 - sparsity(training.before) for training in pruned.trainings]
    kept.append(1 - sparsity(prunable_weights(pruned.model)))
    assert kept == pytest.approx([0.8, 0.64, 0.512], abs=1e-3)
    assert pruned.result.train_macs > 0


def test_masks_hold_during_the_training_between_steps(retrainer):
    pruned = run("l1_unstructured_iterative", retrainer)

    for training in pruned.trainings:
        for name, before in training.before.items():
            assert torch.equal(before == 0, training.after[name] == 0)


def test_iterative_rounds_record_parameters_and_accuracies(retrainer):
    pruned = run("l1_channel_iterative", retrainer)

    rounds = pruned.result.rounds
    dense = parameters(build("resnet8", 10, DIGITS_SHAPE))
    assert [row["round"] for row in rounds] == [1, 2, 3]
    for row in rounds:
        assert row["params_original"] == dense
        assert row["params_unmasked"] == row["params_left"] == round(row["fraction_left"] * dense)
        assert 0 <= row["validation_accuracy_pruned"] <= 1
    assert rounds[-1]["params_left"] == parameters(pruned.model)
    assert all("train_accuracy_tuned" in row for row in rounds[:-1])


def test_iterative_masks_only_grow(retrainer):
    pruned = run("random_unstructured_iterative", retrainer)

    steps = [training.before for training in pruned.trainings]
    steps.append(prunable_weights(pruned.model))
    for earlier, later in itertools.pairwise(steps):
        for name, weight in earlier.items():
            assert bool((later[name][weight == 0] == 0).all())


def test_iterative_channels_end_as_wide_as_one_shot_channels(retrainer):
    iterative = run("l1_channel_iterative", retrainer, ratio=0.5).model.state_dict()
    one_shot = run("l1_channel", retrainer, ratio=0.5).model.state_dict()

    assert iterative.keys() == one_shot.keys()
    assert all(iterative[name].shape == value.shape for name, value in one_shot.items())


def test_a_lottery_ticket_has_rewound_weights_under_its_mask(retrainer):
    pruned = run("l1_unstructured_lottery", retrainer)

    assert [training.recipe for training in pruned.trainings] == ["base", "base"]
    steps = [training.before for training in pruned.trainings]
    steps.append(copy_weights(pruned.model))
    for weights in steps:
        for name, weight in weights.items():
            kept = weight != 0
            assert torch.equal(weight[kept], pruned.dense_weights.rewind[name][kept])
    masking.verify(pruned.model, pruned.result.masks)


def test_a_scratch_control_of_a_mask_method_has_fresh_weights(retrainer):
    scratch = run("l1_unstructured_scratch", retrainer, ratio=0.5)

    fresh = prunable_weights(scratch.dense_weights.fresh())
    for name, weight in prunable_weights(scratch.model).items():
        assert torch.equal(weight, fresh[name] * scratch.result.masks[name])


def test_a_scratch_control_of_a_channel_method_has_fresh_filters(retrainer):
    scratch = run("l1_channel_scratch", retrainer, ratio=0.5)
    assert not scratch.result.masks

    name = "layer1.0.conv1.weight"
    fresh_filters = prunable_weights(scratch.dense_weights.fresh())[name].flatten(1)
    for filter in prunable_weights(scratch.model)[name].flatten(1):
        assert any(torch.equal(filter, fresh) for fresh in fresh_filters)


@pytest.mark.parametrize("method", ["l1_unstructured", "l1_channel"])
def test_a_scratch_control_has_the_shape_of_the_pruned_network(method, retrainer):
    scratch = run(f"{method}_scratch", retrainer, ratio=0.5)
    plain = run(method, retrainer, ratio=0.5)

    assert scratch.result.widths == plain.result.widths
    plain_weights = prunable_weights(plain.model)
    for name, weight in prunable_weights(scratch.model).items():
        assert weight.shape == plain_weights[name].shape


def test_at_init_methods_score_and_keep_the_initial_weights(retrainer):
    pruned = run("snip_at_init", retrainer)

    for name, weight in prunable_weights(pruned.model).items():
        mask = pruned.result.masks.get(name, torch.ones_like(weight))
        assert torch.equal(weight, pruned.dense_weights.init[name] * mask)


def test_gradual_sparsity_follows_the_cubic_to_the_target(retrainer, monkeypatch):
    step_ratios = []
    prune_to = MaskPruner.prune_to

    def recording_prune_to(self, saliency, step_ratio):
        step_ratios.append(step_ratio)
        return prune_to(self, saliency, step_ratio)

    monkeypatch.setattr(MaskPruner, "prune_to", recording_prune_to)
    pruned = run("l1_unstructured_gradual", retrainer, ratio=0.8, epochs=2)

    assert sparsity(prunable_weights(pruned.model)) == pytest.approx(0.8, abs=1e-3)
    assert step_ratios == sorted(step_ratios)
    assert step_ratios[0] == 0

    # Halfway through the training the cubic is at 1 - 0.5^3.
    halfway = next(ratio for ratio in step_ratios if ratio > 0.8 * (1 - 0.5**3) - 1e-9)
    assert halfway == pytest.approx(0.8 * 0.875)
    assert sparsity(pruned.trainings[0].after) > 0.7


def test_soft_pruning_lets_units_return_and_removes_them_in_the_end(retrainer):
    pruned = run("l2_channel_soft", retrainer, ratio=0.5)

    (training,) = pruned.trainings
    assert sparsity(training.after) == pytest.approx(0, abs=0.01)  # zeroed units learnt again
    assert training.after["layer1.0.conv1.weight"].shape[0] == 16
    assert [width.after for width in pruned.result.widths] == [8, 16, 32]
    assert pruned.model.layer3[0].conv1.out_channels == 32


# Slimming acts on norms instead of weights. `test_groups` tests its penalty.
@pytest.mark.parametrize(
    ("method", "strength"),
    [("group_lasso_channel_sparse", 0.05), ("growing_l2_channel_sparse", 5.0)],
)
def test_sparse_training_shrinks_the_units_that_are_removed(method, strength, retrainer):
    def norm_of_smallest_half(penalty: float) -> float:
        pruned = run(method, retrainer, epochs=2, ratio=0.5, penalty=penalty)
        (training,) = pruned.trainings
        total = 0.0
        for name, weight in training.after.items():
            if name.endswith("0.conv1.weight"):
                norms = weight.flatten(1).norm(dim=1).sort().values
                total += float(norms[: len(norms) // 2].sum())
        return total

    assert norm_of_smallest_half(strength) < 0.9 * norm_of_smallest_half(0.0)


def test_l2_over_the_whole_network_removes_what_group_lasso_removes_without_its_training(retrainer):
    expected = run("group_lasso_channel_sparse", retrainer, epochs=0, ratio=0.5)
    pruned = run("l2_channel_global", retrainer, ratio=0.5)

    assert pruned.result.widths == expected.result.widths
    assert len({width.after / width.before for width in pruned.result.widths}) > 1
    for name, weight in expected.model.state_dict().items():
        assert torch.equal(pruned.model.state_dict()[name], weight)


def test_retraining_gives_no_method_a_larger_budget(recipe):
    train = train_params(epochs=10, rewind_epoch=2)
    finetune = recipe.model_copy(update={"epochs": 3})

    assert retraining(Restart.NONE, train, finetune) == (finetune, 0)
    for restart in (Restart.WEIGHTS, Restart.RATE):
        assert retraining(restart, train, finetune) == (train, 2)
    for restart in (Restart.INIT, Restart.SCRATCH):
        repeated, start_epoch = retraining(restart, train, finetune)
        assert (repeated.epochs, start_epoch) == (13, 0)


def test_training_from_a_later_epoch_equals_the_end_of_a_whole_training(trainer, recipe):
    trainer = replace(trainer, seed=3)
    plain = recipe.model_copy(update={"epochs": 3, "momentum": 0.0})
    whole = build("resnet8", 10, DIGITS_SHAPE)
    whole_result = trainer.fit(whole, plain, keep_epochs={1})

    resumed = build("resnet8", 10, DIGITS_SHAPE)
    resumed.load_state_dict(whole_result.kept[1])
    resumed_result = trainer.fit(resumed, plain, start_epoch=1)

    assert resumed_result.history == whole_result.history[1:]
    state = resumed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())


def test_a_teacher_draws_the_outputs_towards_its_own(trainer, recipe):
    network = build("resnet8", 10, DIGITS_SHAPE, seed=5)
    trainer.fit(network, recipe)
    network.eval().requires_grad_(False)
    inputs, _ = next(iter(trainer.validation_loader.ordered(64)))

    def distance(weight: float) -> float:
        student = build("resnet8", 10, DIGITS_SHAPE, seed=6)
        teacher = Teacher(network, weight, temperature=4.0)
        four_epochs = recipe.model_copy(update={"epochs": 4})
        replace(trainer, teacher=teacher).fit(student, four_epochs)
        with torch.no_grad():
            target, output = (net.eval()(inputs).softmax(1) for net in (network, student))
        return float((target - output).abs().sum())

    assert distance(1.0) < distance(0.0)


def test_a_teacher_that_agrees_leaves_its_share_of_the_plain_loss(trainer, execution):
    model = execution.place(build("resnet8", 10, DIGITS_SHAPE)).eval()
    inputs, labels = next(iter(trainer.validation_loader.ordered(32)))
    logits = model(inputs)
    plain_loss = torch.nn.functional.cross_entropy(logits, labels)
    teacher = Teacher(model, weight=0.25, temperature=3.0)

    loss = teacher.loss(logits, inputs, plain_loss, execution)

    assert loss.item() == pytest.approx(0.75 * plain_loss.item(), rel=1e-4)


def test_recalibrated_norms_have_the_statistics_of_the_batches(trainer, execution):
    model = execution.place(build("resnet8", 10, DIGITS_SHAPE)).eval()
    batches = list(trainer.validation_loader.ordered(16))

    recalibrate(model, batches)

    means = [model.conv1(inputs).mean(dim=(0, 2, 3)) for inputs, _ in batches]
    expected = torch.stack(means).mean(0).detach()
    torch.testing.assert_close(model.bn1.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert model.bn1.momentum == 0.1
    assert not model.training


def test_a_callback_that_does_nothing_changes_nothing(trainer, recipe):
    states = []
    for callback in (None, Callback()):
        model = build("resnet8", 10, DIGITS_SHAPE)
        trainer.fit(model, recipe, callback=callback)
        states.append(model.state_dict())

    without_callback, with_callback = states
    for name, value in without_callback.items():
        assert torch.equal(value, with_callback[name])


class KilledError(Exception):
    pass


class DiesOnce(Checkpoint):
    """Dies after saving, once for every name in `deaths`."""

    def __init__(self, path, name, deaths):
        super().__init__(path)
        self._name, self._deaths = name, deaths

    def save(self, state):
        super().save(state)
        if self._name in self._deaths:
            self._deaths.remove(self._name)
            raise KilledError


@pytest.mark.parametrize(
    "method",
    [
        "l1_unstructured_iterative",
        "l1_unstructured_gradual",
        "l2_channel_soft",
        "l1_channel_iterative",
    ],
)
def test_a_schedule_killed_while_training_ends_with_the_same_bits(method, retrainer, tmp_path):
    deaths = {"round-1", "round-2", "gradual", "soft"}
    mortal_trainer = replace(
        retrainer.trainer,
        checkpoints=lambda name: DiesOnce(tmp_path / f"{name}.pt", name, deaths),
    )
    mortal = replace(retrainer, trainer=mortal_trainer)
    uninterrupted = run(method, retrainer, epochs=2)

    for _ in range(4):
        try:
            resumed = run(method, mortal, epochs=2)
            break
        except KilledError:
            continue

    assert len(deaths) < 4
    state = resumed.model.state_dict()
    for name, value in uninterrupted.model.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("method", ["l1_channel_iterative", "l1_unstructured_iterative"])
def test_an_early_step_may_be_too_small_to_remove_anything(method, retrainer):
    pruned = run(
        method, retrainer, ratio=0.05, iterations=4, epochs=0, protect=["layer[23]*", "conv1"]
    )

    assert pruned.result.ratio_achieved == pytest.approx(0.05, abs=0.03)
    assert len(pruned.result.rounds) == 4


@pytest.mark.parametrize("ratio", [0.08, 0.1, 0.2, 0.45])
def test_the_last_iterative_step_must_meet_the_ratio(ratio, retrainer):
    """The last step must have the target ratio itself: a rounded power would skip the check."""
    settings = {"budget": "macs", "protect": ["layer*"], "epochs": 0}

    with pytest.raises(InputError, match="nearest that can be removed"):
        run("l1_unstructured_iterative", retrainer, ratio=ratio, **settings)


def test_layers_frozen_in_base_training_stay_frozen_when_it_is_repeated(retrainer):
    base = train_params(epochs=2, rewind_epoch=1, batch_size=64, freeze=["conv1"])

    pruned = run("l1_unstructured_lottery", replace(retrainer, base=base), ratio=0.4)

    assert len(pruned.trainings) == 2
    for training in pruned.trainings:
        before, after = training.before, training.after
        assert torch.equal(before["conv1.weight"], after["conv1.weight"])
        assert not torch.equal(before["layer1.0.conv1.weight"], after["layer1.0.conv1.weight"])
    assert all(weights.requires_grad for weights in pruned.model.parameters())


def test_layers_with_their_own_ratio_are_pruned_in_steps_too(retrainer):
    pruned = run("l1_unstructured_iterative", retrainer, ratio=0.5, layer_ratios={"layer3": 0.9})

    shares = []
    for training in pruned.trainings:
        layer3 = {name: w for name, w in training.after.items() if name.startswith("layer3")}
        shares.append(sparsity(layer3))
    assert shares[0] == pytest.approx(1 - 0.1 ** (1 / 3), abs=0.02)
    assert shares[1] == pytest.approx(1 - 0.1 ** (2 / 3), abs=0.02)
