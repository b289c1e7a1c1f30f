import io
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.networks import DIGITS_SHAPE, with_store
from sklearn.metrics import f1_score, precision_score, recall_score
from torch import nn

from prunelab.config.params import Recipe
from prunelab.core.errors import InputError
from prunelab.models.catalogue import build
from prunelab.training import masking
from prunelab.training.callbacks import CallAfterStep, Callback
from prunelab.training.checkpoints import Checkpoint
from prunelab.training.optimizers import OPTIMISERS, SCHEDULES, build_optimizer, lr_factor
from prunelab.training.progress import Progress, RunningMetrics


def with_(recipe: Recipe, **changes: object) -> Recipe:
    return type(recipe)(**recipe.model_dump() | changes)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_and_schedule_learns(name, schedule, trainer, recipe):
    rate = 0.02 if name == "sgd" else 0.002
    changes = {
        "optimizer": name,
        "schedule": schedule,
        "milestones": [0.5],
        "learning_rate": rate,
        "epochs": 3,
    }
    fitted = trainer.fit(build("resnet8", 10, DIGITS_SHAPE), with_(recipe, **changes))
    assert [row["epoch"] for row in fitted.history] == [1, 2, 3]
    assert fitted.history[-1]["loss"] < 0.8 * fitted.history[0]["loss"]
    assert fitted.images_seen == 3 * len(trainer.train_loader)


def test_schedules_follow_their_formulas(recipe):
    def factors(**changes: object) -> np.ndarray:
        changed = with_(recipe, **changes)
        return np.array([lr_factor(changed, step, 100) for step in range(100)])

    after = np.arange(100) / 100
    np.testing.assert_allclose(factors(schedule="constant", warmup=0), np.ones(100))
    np.testing.assert_allclose(
        factors(schedule="cosine", warmup=0), np.cos(math.pi * after / 2) ** 2
    )
    np.testing.assert_allclose(factors(schedule="one_cycle", warmup=0), 1 - after)
    stepped = factors(schedule="step", warmup=0, milestones=[0.3, 0.6], gamma=0.1)
    np.testing.assert_allclose(stepped, np.where(after < 0.3, 1, np.where(after < 0.6, 0.1, 0.01)))
    warm = factors(schedule="one_cycle", warmup=0.25)
    assert warm.argmax() == 25
    assert (np.diff(warm[:26]) > 0).all()
    assert (np.diff(warm[25:]) < 0).all()
    assert warm[0] > 0


def test_weight_decay_leaves_norms_and_biases_alone(recipe):
    model = build("resnet8", 10, DIGITS_SHAPE)
    decayed, spared = build_optimizer(model, with_(recipe, weight_decay=0.1)).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0
    assert {names[p] for p in spared["params"]} == {
        n for n in names.values() if "bn" in n or n.endswith("bias")
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_one_step_is_sgd_on_the_smoothed_loss(trainer, recipe):
    """One batch, no momentum: the new weights are the old ones less rate times gradient plus decay."""
    model, twin = (build("resnet8", 10, DIGITS_SHAPE) for _ in range(2))
    changes = {
        "epochs": 1,
        "batch_size": 256,
        "momentum": 0.0,
        "schedule": "constant",
        "warmup": 0.0,
    }
    one_step = with_(recipe, **changes, learning_rate=0.1, weight_decay=0.01, label_smoothing=0.2)
    replace(trainer, seed=5).fit(model, one_step)

    ((images, labels),) = trainer.train_loader.shuffled(256, trainer.augmentation, seed=5, epoch=0)
    trainer.execution.place(twin).train()
    log_shares = F.log_softmax(twin(images), dim=1)
    targets = F.one_hot(labels, 10) * 0.8 + 0.2 / 10
    (-(targets * log_shares).sum(1).mean()).backward()
    for (name, new), old in zip(model.named_parameters(), twin.parameters(), strict=True):
        decay = 0.01 * old if old.dim() > 1 else 0.0
        torch.testing.assert_close(new, old - 0.1 * (old.grad + decay), msg=name)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_masked_weights_stay_zero_through_every_step(name, trainer, recipe):
    model = trainer.execution.place(build("resnet8", 10, DIGITS_SHAPE))
    kept = {
        "layer1.0.conv1.weight": torch.rand(
            16, 16, 3, 3, generator=torch.Generator().manual_seed(0)
        )
        > 0.5
    }
    masking.apply(model, kept)
    hold, seen = masking.hold(model, kept), []

    def after_step() -> None:
        revived = model.layer1[0].conv1.weight[~kept["layer1.0.conv1.weight"]].count_nonzero()
        hold()
        seen.append(int(revived))
        masking.verify(model, kept)

    trainer.fit(model, with_(recipe, optimizer=name), callback=CallAfterStep(after_step))
    assert len(seen) == 2 * trainer.train_loader.count(64)
    assert max(seen) > 0  # the optimiser does revive them: without the hold this test would fail


class Counts(Checkpoint):
    epochs = 0

    def save(self, state):
        super().save(state)
        self.epochs += 1


class Stopped(Exception):
    pass


class StopsAfter(Checkpoint):
    """A checkpoint file whose process dies once `epochs` are done."""

    def __init__(self, path, epochs):
        super().__init__(path)
        self.left = epochs

    def save(self, state):
        super().save(state)
        self.left -= 1
        if self.left == 0:
            raise Stopped


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("model", ["resnet8", "vgg11_bn"])
def test_a_run_stopped_after_any_epoch_ends_with_the_same_bits(
    model, name, trainer, recipe, tmp_path
):
    three = with_(recipe, epochs=3, optimizer=name, learning_rate=0.01)
    whole = build(model, 10, DIGITS_SHAPE)
    trainer = replace(trainer, seed=2)
    expected = trainer.fit(whole, three, keep_epochs={0, 1})
    path = tmp_path / "0.pt"
    for _ in range(2):  # dies after the first epoch, then after the second
        with pytest.raises(Stopped):
            stopping = with_store(trainer, StopsAfter(path, 1))
            stopping.fit(build(model, 10, DIGITS_SHAPE), three, keep_epochs={0, 1})
    torch.manual_seed(999)  # a new process has another global stream
    resumed, last = build(model, 10, DIGITS_SHAPE), Counts(path)
    got = with_store(trainer, last).fit(resumed, three, keep_epochs={0, 1})
    assert last.epochs == 1  # the two that were finished were not done again
    assert got.history == expected.history
    assert got.images_seen == expected.images_seen
    for epoch in (0, 1):
        assert all(
            torch.equal(got.kept[epoch][key], value) for key, value in expected.kept[epoch].items()
        )
    assert all(
        torch.equal(resumed.state_dict()[key], value) for key, value in whole.state_dict().items()
    )


def test_a_damaged_checkpoint_costs_time_and_nothing_else(trainer, recipe, tmp_path, capsys):
    path = tmp_path / "0.pt"
    path.write_bytes(b"half a file")
    fitted = with_store(trainer, Checkpoint(path)).fit(build("resnet8", 10, DIGITS_SHAPE), recipe)
    assert len(fitted.history) == recipe.epochs
    assert "starting over" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_what_matters_on_a_terminal_and_nothing_elsewhere(
    terminal, trainer, recipe, monkeypatch
):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(Progress.__init__, "__defaults__", (0.0,))  # refresh at every step
    replace(trainer, label="the label").fit(build("resnet8", 10, DIGITS_SHAPE), recipe)
    shown = stream.getvalue()
    if not terminal:
        assert shown == ""
    for part in ("the label", "loss ", "acc ", "images/s", "val acc", "<") if terminal else ():
        assert part in shown


def test_kept_epochs_are_copies_of_the_weights_then(trainer, recipe):
    model = build("resnet8", 10, DIGITS_SHAPE)
    initial = {key: value.clone() for key, value in model.state_dict().items()}
    fitted = trainer.fit(model, recipe, keep_epochs={0, 2})
    assert all(torch.equal(fitted.kept[0][key], value) for key, value in initial.items())
    assert all(torch.equal(fitted.kept[2][key], value) for key, value in model.state_dict().items())


def test_no_epochs_change_nothing(trainer, recipe):
    model = build("resnet8", 10, DIGITS_SHAPE)
    initial = {key: value.clone() for key, value in model.state_dict().items()}
    fitted = trainer.fit(model, with_(recipe, epochs=0), keep_epochs={0})
    assert fitted.history == []
    assert all(torch.equal(fitted.kept[0][key], value) for key, value in initial.items())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in initial.items())


def little() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(DIGITS_SHAPE), 10))


class Spoils(Callback):
    """Spoils a weight after some step, as an overflow does."""

    def __init__(self, model, step, value):
        self.model, self.left, self.value = model, step, value

    def after_step(self, progress):
        self.left -= 1
        if self.left == 0:
            with torch.no_grad():
                self.model[1].bias[0] = self.value


def spoilt(trainer, recipe, model, step, value):
    with pytest.raises(InputError) as refused:
        trainer.fit(model, recipe, callback=Spoils(model, step, value))
    (line,) = refused.value.problems
    assert "learning_rate" in line
    assert "state after the previous epoch is kept" in line
    return line


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_and_the_batch_is_named(value, trainer, recipe):
    """Batches are counted from 1; a weight spoilt after a step shows in the loss of the next batch."""
    steps = trainer.train_loader.count(recipe.batch_size)
    assert steps == 4
    for step, when in {
        1: "in epoch 1, batch 2 of 4",
        3: "in epoch 1, batch 4 of 4",
        5: "in epoch 2, batch 2 of 4",
    }.items():
        line = spoilt(trainer, recipe, little(), step, value)
        assert line.startswith("loss became ")
        assert when in line
    # After the last step only the validation can show it.
    line = spoilt(trainer, recipe, little(), steps, value)
    assert line.startswith("validation_loss became ")
    assert "after epoch 1." in line


def test_the_last_good_epoch_is_kept_where_a_loss_became_none(trainer, recipe, tmp_path):
    path = tmp_path / "0.pt"
    spoilt(with_store(trainer, Checkpoint(path)), recipe, little(), 6, math.nan)
    kept = Checkpoint(path).load()
    assert len(kept["result"]["history"]) == 1
    whole, resumed = (little() for _ in range(2))
    trainer.fit(whole, recipe)
    with_store(trainer, Checkpoint(path)).fit(
        resumed, recipe
    )  # goes on from it, and nothing is missing
    assert all(
        torch.equal(resumed.state_dict()[key], value) for key, value in whole.state_dict().items()
    )


def test_the_first_batch_of_any_process_that_was_lost_is_the_one_that_is_named():
    def tally(losses):
        one = RunningMetrics(torch.device("cpu"))
        for loss in losses:
            one.add(torch.tensor(loss), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
        return one

    early, late, sound = (
        tally(losses)
        for losses in ([1.0, math.inf, -math.inf], [1.0, 2.0, math.nan], [1.0, 2.0, 3.0])
    )
    assert [one.sound(3) for one in (early, late, sound)] == [1, 2, 3]
    two_late = tally([0.0, 0.0, math.nan])

    def summed(found):
        for other in (late, two_late):
            other.sound(3, lambda theirs: found.add_(theirs))
        return found

    assert early.sound(3, summed) == 1


def test_the_history_tells_what_an_evaluation_by_hand_finds(trainer, recipe):
    model = build("resnet8", 10, DIGITS_SHAPE)
    fitted = trainer.fit(model, recipe)
    ((images, labels),) = trainer.validation_loader.ordered(len(trainer.validation_loader))
    with torch.no_grad():
        logits = model.eval()(images)
    assert fitted.history[-1]["validation_accuracy"] == pytest.approx(
        (logits.argmax(1) == labels).float().mean().item(), abs=1e-6
    )
    assert fitted.history[-1]["validation_loss"] == pytest.approx(
        F.cross_entropy(logits, labels).item(), abs=1e-5
    )
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        expected = score(
            labels, logits.argmax(1), labels=range(10), average="macro", zero_division=0
        )
        assert fitted.history[-1][f"validation_{name}_macro"] == pytest.approx(expected, abs=1e-6)
