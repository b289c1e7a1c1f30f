"""Schedules by what they promise: ratios over time, masks that only grow, units that return, weights that go back."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers.networks import DIGITS_SHAPE
from helpers.params import prune_spec, train_params

from prunelab.config.restart import Restart
from prunelab.core.errors import InputError
from prunelab.models.catalogue import build, prunable_weights
from prunelab.models.cost import parameters
from prunelab.models.norms import recalibrate
from prunelab.pruning.prune import Bases, prune
from prunelab.training import masking
from prunelab.training.callbacks import Callback
from prunelab.training.distillation import Teacher
from prunelab.training.retraining import Retrainer, retraining


def bases_of(model: torch.nn.Module) -> Bases:
    """Weights to start again from that can be told apart."""
    state = model.state_dict()
    shifted = {
        name: value + 0.5 if value.is_floating_point() else value for name, value in state.items()
    }
    doubled = {
        name: value * 2 if value.is_floating_point() else value for name, value in state.items()
    }
    return Bases(
        init=shifted, rewind=doubled, fresh=partial(build, "resnet8", 10, DIGITS_SHAPE, 77)
    )


class Recording(Retrainer):
    """Records every training and the weights before and after it."""

    def __init__(self, retrainer: Retrainer):
        super().__init__(retrainer.trainer, retrainer.finetune, retrainer.base)
        object.__setattr__(self, "trained", [])

    def fine_tune(self, model, epochs, *, callback, name):
        before = _copied_weights(model)
        result = super().fine_tune(model, epochs, callback=callback, name=name)
        self.trained.append(("finetune", name, before, _copied_weights(model)))
        return result

    def retrain_from_rewind(self, model, *, callback, name):
        before = _copied_weights(model)
        result = super().retrain_from_rewind(model, callback=callback, name=name)
        self.trained.append(("base", name, before, _copied_weights(model)))
        return result


def _copied_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in prunable_weights(model).items()}


def run(method: str, retrainer, ratio: float = 0.7, **settings: object):
    model = build("resnet8", 10, DIGITS_SHAPE, seed=1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.fill_(
                    0.1
                )  # as after some training: a silent unit behind a shift of 0 gets no gradient
    bases = bases_of(model)
    recording = Recording(retrainer)
    spec = prune_spec(method, ratio, **{"epochs": 1, "iterations": 3} | settings)
    pruned = prune(
        model, "resnet8", spec, shape=DIGITS_SHAPE, seed=0, retrainer=recording, bases=bases
    )
    return model, pruned, recording.trained, bases


def sparsity(weights: dict[str, torch.Tensor]) -> float:
    return sum(int((w == 0).sum()) for w in weights.values()) / sum(
        w.numel() for w in weights.values()
    )


def test_iterative_cuts_take_equal_shares_of_what_is_left(retrainer):
    model, pruned, trained, _ = run("l1_unstructured_iterative", retrainer, ratio=1 - 0.8**3)
    kept = [1 - sparsity(before) for _, _, before, _ in trained] + [
        1 - sparsity(prunable_weights(model))
    ]
    assert kept == pytest.approx([0.8, 0.64, 0.512], abs=1e-3)
    for _, _, before, after in trained:  # masks hold while it trains
        assert all(torch.equal(before[name] == 0, after[name] == 0) for name in before)
    assert pruned.train_macs > 0


def test_iterative_rounds_are_recorded_as_the_study_did(retrainer):
    model, pruned, _, _ = run("l1_channel_iterative", retrainer)
    assert [row["round"] for row in pruned.rounds] == [1, 2, 3]
    full = parameters(build("resnet8", 10, DIGITS_SHAPE))
    for row in pruned.rounds:
        assert row["params_original"] == full
        assert row["params_unmasked"] == row["params_left"] == round(row["fraction_left"] * full)
        assert 0 <= row["validation_accuracy_pruned"] <= 1
    assert pruned.rounds[-1]["params_left"] == parameters(model)
    assert all("train_accuracy_tuned" in row for row in pruned.rounds[:-1])


def test_iterative_masks_only_grow(retrainer):
    model, _, trained, _ = run("random_unstructured_iterative", retrainer)
    zeros = [before for _, _, before, _ in trained] + [prunable_weights(model)]
    for earlier, later in itertools.pairwise(zeros):
        assert all(bool((later[name][earlier[name] == 0] == 0).all()) for name in earlier)


def test_iterative_channels_end_as_wide_as_one_cut_leaves_them(retrainer):
    several, _, _, _ = run("l1_channel_iterative", retrainer, ratio=0.5)
    one, _, _, _ = run("l1_channel", retrainer, ratio=0.5)
    assert {n: w.shape for n, w in several.state_dict().items()} == {
        n: w.shape for n, w in one.state_dict().items()
    }


def test_a_lottery_ticket_has_the_rewound_weights_under_its_mask(retrainer):
    model, pruned, trained, bases = run("l1_unstructured_lottery", retrainer)
    assert [kind for kind, *_ in trained] == ["base", "base"]
    for weights in (
        trained[0][2],
        trained[1][2],
        {n: w.detach() for n, w in prunable_weights(model).items()},
    ):
        for name, weight in weights.items():
            assert torch.equal(weight[weight != 0], bases.rewind[name][weight != 0])
    masking.verify(model, pruned.masks)


@pytest.mark.parametrize("method", ["l1_unstructured_scratch", "l1_channel_scratch"])
def test_a_scratch_control_has_the_pruned_shape_and_fresh_weights(method, retrainer):
    model, pruned, _, bases = run(method, retrainer, ratio=0.5)
    like, expected, _, _ = run(method.replace("_scratch", ""), retrainer, ratio=0.5)
    assert pruned.widths == expected.widths
    fresh = bases.fresh()
    for name, weight in prunable_weights(model).items():
        assert weight.shape == prunable_weights(like)[name].shape
        if pruned.masks:
            assert torch.equal(weight, prunable_weights(fresh)[name] * pruned.masks[name])
    name = "layer1.0.conv1.weight"
    rows = list(prunable_weights(model)[name].flatten(1))
    if not pruned.masks:  # every filter left is one of the fresh network's
        source = prunable_weights(fresh)[name].flatten(1)
        assert all(any(torch.equal(row, other) for other in source) for row in rows)


def test_at_init_methods_judge_and_keep_the_initial_weights(retrainer):
    model, pruned, _, bases = run("snip_at_init", retrainer)
    for name, weight in prunable_weights(model).items():
        assert torch.equal(
            weight, bases.init[name] * pruned.masks.get(name, torch.ones_like(weight))
        )


def test_gradual_sparsity_follows_the_cubic_and_ends_at_the_ratio(retrainer, monkeypatch):
    seen = []
    from prunelab.pruning.unstructured.mask_pruner import MaskPruner

    prune_to = MaskPruner.prune_to
    monkeypatch.setattr(
        MaskPruner,
        "prune_to",
        lambda self, s, ratio: (seen.append(ratio), prune_to(self, s, ratio))[1],
    )
    model, _, trained, _ = run("l1_unstructured_gradual", retrainer, ratio=0.8, epochs=2)
    assert sparsity(prunable_weights(model)) == pytest.approx(0.8, abs=1e-3)
    assert seen == sorted(seen)
    assert seen[0] == 0
    middle = next(
        ratio for ratio in seen if ratio > 0.8 * (1 - 0.5**3) - 1e-9
    )  # at half of the training
    assert middle == pytest.approx(0.8 * 0.875)
    assert sparsity(trained[0][3]) > 0.7


def test_soft_pruning_lets_units_return_and_removes_them_in_the_end(retrainer):
    model, pruned, trained, _ = run("l2_channel_soft", retrainer, ratio=0.5)
    ((_, _, _, after),) = trained
    assert sparsity(after) == pytest.approx(0, abs=0.01)  # what was zeroed has learnt again
    assert after["layer1.0.conv1.weight"].shape[0] == 16
    assert [width.after for width in pruned.widths] == [8, 16, 32]
    assert model.layer3[0].conv1.out_channels == 32


# Slimming acts on norms and not on weights; what it adds to the loss is tested with the penalties.
@pytest.mark.parametrize("method", ["group_lasso_channel_sparse", "growing_l2_channel_sparse"])
def test_sparse_training_makes_what_is_removed_small(method, retrainer):
    def smallest(**settings: object) -> float:
        _, _, ((*_, after),), _ = run(method, retrainer, epochs=2, ratio=0.5, **settings)
        norms = [
            weight.flatten(1).norm(dim=1)
            for name, weight in after.items()
            if name.endswith("0.conv1.weight")
        ]
        return float(torch.cat([n.sort().values[: len(n) // 2] for n in norms]).sum())

    assert smallest(penalty=0.05 if "lasso" in method else 5.0) < 0.9 * smallest(penalty=0.0)


def test_retraining_gives_no_method_a_larger_budget(recipe):
    train = train_params(epochs=10, rewind_epoch=2)
    tune = recipe.model_copy(update={"epochs": 3})
    assert retraining(Restart.NONE, train, tune) == (tune, 0)
    for restart in (Restart.WEIGHTS, Restart.RATE):
        assert retraining(restart, train, tune) == (train, 2)
    for restart in (Restart.INIT, Restart.SCRATCH):
        again, first = retraining(restart, train, tune)
        assert (again.epochs, first) == (13, 0)


def test_training_from_a_later_epoch_is_the_tail_of_the_whole(trainer, recipe):
    trainer = replace(trainer, seed=3)
    whole = build("resnet8", 10, DIGITS_SHAPE)
    plain = recipe.model_copy(update={"epochs": 3, "momentum": 0.0})
    fitted = trainer.fit(whole, plain, keep_epochs={1})
    tail = build("resnet8", 10, DIGITS_SHAPE)
    tail.load_state_dict(fitted.kept[1])
    rest = trainer.fit(tail, plain, start_epoch=1)
    assert rest.history == fitted.history[1:]
    assert all(
        torch.equal(value, tail.state_dict()[name]) for name, value in whole.state_dict().items()
    )


def test_a_teacher_draws_the_outputs_towards_its_own(trainer, recipe):
    teacher = build("resnet8", 10, DIGITS_SHAPE, seed=5)
    trainer.fit(teacher, recipe)
    teacher.eval().requires_grad_(False)
    inputs, _ = next(iter(trainer.validation_loader.ordered(64)))

    def distance(weight: float) -> float:
        student = build("resnet8", 10, DIGITS_SHAPE, seed=6)
        taught = Teacher(teacher, weight, temperature=4.0)
        four_epochs = recipe.model_copy(update={"epochs": 4})
        replace(trainer, teacher=taught).fit(student, four_epochs)
        with torch.no_grad():
            wanted, got = (net.eval()(inputs).softmax(1) for net in (teacher, student))
        return float((wanted - got).abs().sum())

    assert distance(1.0) < distance(0.0)


def test_the_loss_of_a_teacher_that_agrees_is_the_plain_loss_share(trainer, execution, recipe):
    model = execution.place(build("resnet8", 10, DIGITS_SHAPE)).eval()
    inputs, labels = next(iter(trainer.validation_loader.ordered(32)))
    logits = model(inputs)
    own = torch.nn.functional.cross_entropy(logits, labels)
    taught = Teacher(model, weight=0.25, temperature=3.0)
    assert taught.loss(logits, inputs, own, execution).item() == pytest.approx(
        0.75 * own.item(), rel=1e-4
    )


def test_recalibrated_norms_have_the_statistics_of_the_batches(trainer, execution):
    model = execution.place(build("resnet8", 10, DIGITS_SHAPE)).eval()
    batches = list(trainer.validation_loader.ordered(16))
    recalibrate(model, batches)
    outputs = [model.conv1(inputs) for inputs, _ in batches]
    mean = torch.stack([output.mean(dim=(0, 2, 3)) for output in outputs]).mean(0)
    torch.testing.assert_close(model.bn1.running_mean, mean.detach(), rtol=1e-4, atol=1e-5)
    assert model.bn1.momentum == 0.1
    assert not model.training


def test_a_guide_that_does_nothing_changes_nothing(trainer, recipe):
    states = []
    for callback in (None, Callback()):
        model = build("resnet8", 10, DIGITS_SHAPE)
        trainer.fit(model, recipe, callback=callback)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_schedule_killed_in_training_ends_with_the_same_bits(trainer, retrainer, tmp_path):
    from prunelab.training.checkpoints import Checkpoint

    class Killed(Exception):
        pass

    class DiesOnce(Checkpoint):
        def __init__(self, path, name, deaths):
            super().__init__(path)
            self._name, self._deaths = name, deaths

        def save(self, state):
            super().save(state)
            if self._name in self._deaths:
                self._deaths.remove(self._name)
                raise Killed

    for method in (
        "l1_unstructured_iterative",
        "l1_unstructured_gradual",
        "l2_channel_soft",
        "l1_channel_iterative",
    ):
        whole, _, _, _ = run(method, retrainer, epochs=2)
        deaths = {"round-1", "round-2", "gradual", "soft"}
        again = replace(
            retrainer.trainer,
            checkpoints=lambda name, m=method, d=deaths: DiesOnce(
                tmp_path / f"{m}-{name}.pt", name, d
            ),
        )
        again = replace(retrainer, trainer=again)
        for _ in range(4):
            try:
                resumed, _, _, _ = run(method, again, epochs=2)
                break
            except Killed:
                continue
        assert len(deaths) < 4
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), f"{method}: {name}"


@pytest.mark.parametrize("method", ["l1_channel_iterative", "l1_unstructured_iterative"])
def test_a_round_too_small_to_remove_anything_is_no_reason_to_refuse_the_whole(method, retrainer):
    _, pruned, _, _ = run(
        method, retrainer, ratio=0.05, iterations=4, epochs=0, protect=["layer[23]*", "conv1"]
    )
    assert pruned.ratio_achieved == pytest.approx(0.05, abs=0.03)
    assert len(pruned.rounds) == 4


@pytest.mark.parametrize("ratio", [0.08, 0.1, 0.2, 0.45])
def test_the_last_of_several_cuts_is_held_to_the_ratio_as_one_cut_is(ratio, retrainer):
    """A power computed in floating point may fall short of the ratio, and then nobody would look whether it is met."""
    settings = {"budget": "macs", "protect": ["layer*"], "epochs": 0}
    with pytest.raises(InputError, match="nearest that can be removed"):
        run("l1_unstructured_iterative", retrainer, ratio=ratio, **settings)


def test_layers_that_base_training_keeps_stay_when_it_is_done_again(retrainer):
    frozen = replace(
        retrainer, base=train_params(epochs=2, rewind_epoch=1, batch_size=64, freeze=["conv1"])
    )
    model, _, trained, _ = run("l1_unstructured_lottery", frozen, ratio=0.4)
    assert len(trained) == 2
    for _, _, before, after in trained:
        assert torch.equal(before["conv1.weight"], after["conv1.weight"])
        assert not torch.equal(before["layer1.0.conv1.weight"], after["layer1.0.conv1.weight"])
    assert all(weights.requires_grad for weights in model.parameters())


def test_layers_with_their_own_ratio_are_cut_in_steps_too(retrainer):
    _, _, trained, _ = run(
        "l1_unstructured_iterative", retrainer, ratio=0.5, layer_ratios={"layer3": 0.9}
    )
    shares = [
        sparsity({name: weight for name, weight in after.items() if name.startswith("layer3")})
        for _, _, _, after in trained
    ]
    assert shares[0] == pytest.approx(1 - 0.1 ** (1 / 3), abs=0.02)
    assert shares[1] == pytest.approx(1 - 0.1 ** (2 / 3), abs=0.02)
