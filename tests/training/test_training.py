"""The training loop: steps, resumed runs, kept weights, progress and losses that are not finite."""

import io
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.interrupted import StopAfterEpoch, StoppedError
from helpers.networks import DIGITS_SHAPE, with_store
from helpers.params import with_changes
from sklearn.metrics import f1_score, precision_score, recall_score
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.models.networks import build
from prunelab.training import masking, progress
from prunelab.training.callbacks import CallAfterStep, Callback
from prunelab.training.checkpoints import Checkpoint
from prunelab.training.lr_schedules import LR_SCHEDULES, lr_factor
from prunelab.training.optimizers import OPTIMIZERS, build_optimizer
from prunelab.training.progress import RunningMetrics


def copied_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_states(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_and_schedule_learns(name, schedule, trainer, recipe):
    recipe = with_changes(
        recipe,
        optimizer=name,
        schedule=schedule,
        milestones=[0.5],
        learning_rate=0.02 if name == "sgd" else 0.002,
        epochs=3,
    )

    result = trainer.fit(build("resnet8", 10, DIGITS_SHAPE), recipe)

    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    assert result.images_seen == 3 * len(trainer.train_loader)


def test_schedules_follow_their_formulas(recipe):
    def factors(**changes: object) -> np.ndarray:
        changed = with_changes(recipe, **changes)
        return np.array([lr_factor(changed, step, 100) for step in range(100)])

    progress = np.arange(100) / 100
    np.testing.assert_allclose(factors(schedule="constant", warmup=0), np.ones(100))
    np.testing.assert_allclose(
        factors(schedule="cosine", warmup=0), np.cos(math.pi * progress / 2) ** 2
    )
    np.testing.assert_allclose(factors(schedule="one_cycle", warmup=0), 1 - progress)

    stepped = factors(schedule="step", warmup=0, milestones=[0.3, 0.6], gamma=0.1)
    after_first = np.where(progress < 0.6, 0.1, 0.01)
    np.testing.assert_allclose(stepped, np.where(progress < 0.3, 1, after_first))

    warm = factors(schedule="one_cycle", warmup=0.25)
    assert warm.argmax() == 25
    assert (np.diff(warm[:26]) > 0).all()
    assert (np.diff(warm[25:]) < 0).all()
    assert warm[0] > 0


def test_weight_decay_leaves_norms_and_biases_alone(recipe):
    model = build("resnet8", 10, DIGITS_SHAPE)
    names = {parameter: name for name, parameter in model.named_parameters()}

    decayed, spared = build_optimizer(model, with_changes(recipe, weight_decay=0.1)).groups

    assert decayed.weight_decay == 0.1
    assert spared.weight_decay == 0
    norms_and_biases = {n for n in names.values() if "bn" in n or n.endswith("bias")}
    assert {names[parameter] for parameter in spared.parameters} == norms_and_biases
    assert len(decayed.parameters) + len(spared.parameters) == len(names)


def test_one_step_is_sgd_on_the_smoothed_loss(trainer, recipe):
    """New weights are the old ones minus rate times (gradient plus decay); no momentum."""
    model, expected = (build("resnet8", 10, DIGITS_SHAPE) for _ in range(2))
    recipe = with_changes(
        recipe,
        epochs=1,
        batch_size=256,
        momentum=0.0,
        schedule="constant",
        warmup=0.0,
        learning_rate=0.1,
        weight_decay=0.01,
        label_smoothing=0.2,
    )

    replace(trainer, seed=5).fit(model, recipe)

    batches = trainer.train_loader.shuffled(256, trainer.augmentation, seed=5, epoch=0)
    ((images, labels),) = batches
    trainer.execution.place(expected).train()
    log_shares = F.log_softmax(expected(images), dim=1)
    targets = F.one_hot(labels, 10) * 0.8 + 0.2 / 10
    (-(targets * log_shares).sum(1).mean()).backward()
    for (name, new), old in zip(model.named_parameters(), expected.parameters(), strict=True):
        decay = 0.01 * old if old.dim() > 1 else 0.0
        torch.testing.assert_close(new, old - 0.1 * (old.grad + decay), msg=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_weights_stay_zero_through_every_step(name, trainer, recipe):
    model = trainer.execution.place(build("resnet8", 10, DIGITS_SHAPE))
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(16, 16, 3, 3, generator=generator) > 0.5
    masks = {"layer1.0.conv1.weight": mask}
    masking.apply(model, masks)
    zero_dropped = masking.hold(model, masks)
    revived = []

    def after_step() -> None:
        revived.append(int(model.layer1[0].conv1.weight[~mask].count_nonzero()))
        zero_dropped()
        masking.verify(model, masks)

    trainer.fit(model, with_changes(recipe, optimizer=name), callback=CallAfterStep(after_step))

    assert len(revived) == 2 * trainer.train_loader.batches_per_epoch(64)
    assert max(revived) > 0  # the optimizer does revive them: without the hold this would fail


class CountingCheckpoint(Checkpoint):
    """Counts the epochs that it saves."""

    epochs = 0

    def save(self, state):
        super().save(state)
        self.epochs += 1


# Every optimizer with its own state, and another network.
@pytest.mark.parametrize(
    ("model", "name"), [*(("resnet8", name) for name in OPTIMIZERS), ("vgg11_bn", "sgd")]
)
def test_a_run_stopped_after_any_epoch_ends_with_the_same_bits(
    model, name, trainer, recipe, tmp_path
):
    recipe = with_changes(recipe, epochs=3, optimizer=name, learning_rate=0.01)
    trainer = replace(trainer, seed=2)
    uninterrupted = build(model, 10, DIGITS_SHAPE)
    expected = trainer.fit(uninterrupted, recipe, keep_epochs={0, 1})

    path = tmp_path / "0.pt"
    stopping = with_store(trainer, StopAfterEpoch(path))
    for _ in range(2):  # dies after the first epoch, then after the second
        with pytest.raises(StoppedError):
            stopping.fit(build(model, 10, DIGITS_SHAPE), recipe, keep_epochs={0, 1})
    torch.manual_seed(999)  # a new process has another global stream
    resumed, checkpoint = build(model, 10, DIGITS_SHAPE), CountingCheckpoint(path)
    result = with_store(trainer, checkpoint).fit(resumed, recipe, keep_epochs={0, 1})

    assert checkpoint.epochs == 1  # the two finished epochs were not repeated
    assert result.history == expected.history
    assert result.images_seen == expected.images_seen
    for epoch in (0, 1):
        assert_equal_states(result.kept[epoch], expected.kept[epoch])
    assert_equal_states(resumed.state_dict(), uninterrupted.state_dict())


def test_a_damaged_checkpoint_starts_over(trainer, recipe, tmp_path, capsys):
    path = tmp_path / "0.pt"
    path.write_bytes(b"half a file")

    result = with_store(trainer, Checkpoint(path)).fit(build("resnet8", 10, DIGITS_SHAPE), recipe)

    assert len(result.history) == recipe.epochs
    assert "starting over" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_shows_loss_accuracy_and_speed(trainer, recipe, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "REFRESH_S", 0.0)

    replace(trainer, label="the label").fit(build("resnet8", 10, DIGITS_SHAPE), recipe)

    for part in ("the label", "loss ", "acc ", "images/s", "val acc", "<"):
        assert part in stream.getvalue()


def test_progress_shows_nothing_without_a_terminal(trainer, recipe, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "REFRESH_S", 0.0)

    replace(trainer, label="the label").fit(build("resnet8", 10, DIGITS_SHAPE), recipe)

    assert stream.getvalue() == ""


def test_kept_epochs_are_copies_of_the_weights_then(trainer, recipe):
    model = build("resnet8", 10, DIGITS_SHAPE)
    initial = copied_state(model)

    result = trainer.fit(model, recipe, keep_epochs={0, 2})

    assert_equal_states(result.kept[0], initial)
    assert_equal_states(result.kept[2], model.state_dict())


def test_no_epochs_change_nothing(trainer, recipe):
    model = build("resnet8", 10, DIGITS_SHAPE)
    initial = copied_state(model)

    result = trainer.fit(model, with_changes(recipe, epochs=0), keep_epochs={0})

    assert result.history == []
    assert_equal_states(result.kept[0], initial)
    assert_equal_states(model.state_dict(), initial)


def linear_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(DIGITS_SHAPE), 10))


class SpoilAfterStep(Callback):
    """Sets a weight to a value after some step, as an overflow does; steps count from 1."""

    def __init__(self, model, step, value):
        self.model, self.steps_left, self.value = model, step, value

    def after_step(self):
        self.steps_left -= 1
        if self.steps_left == 0:
            with torch.no_grad():
                self.model[1].bias[0] = self.value


def error_of_spoilt_run(trainer, recipe, step, value):
    """The message of a run whose weight becomes `value` after a step."""
    model = linear_network()
    with pytest.raises(InputError) as caught:
        trainer.fit(model, recipe, callback=SpoilAfterStep(model, step, value))

    (line,) = caught.value.problems
    assert "learning_rate" in line
    return line


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("step", "place"),
    [
        (1, "in epoch 1, batch 2 of 4"),
        (3, "in epoch 1, batch 4 of 4"),
        (5, "in epoch 2, batch 2 of 4"),
    ],
)
def test_a_non_finite_loss_stops_the_run_and_names_the_batch(step, place, value, trainer, recipe):
    """A weight that is spoilt after a step shows in the loss of the next batch."""
    assert trainer.train_loader.batches_per_epoch(recipe.batch_size) == 4

    line = error_of_spoilt_run(trainer, recipe, step, value)

    assert line.startswith("loss became ")
    assert place in line


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_spoilt_in_the_last_step_shows_in_the_validation(value, trainer, recipe):
    steps = trainer.train_loader.batches_per_epoch(recipe.batch_size)

    line = error_of_spoilt_run(trainer, recipe, steps, value)

    assert line.startswith("validation_loss became ")
    assert "after epoch 1." in line


def test_a_run_resumes_from_the_epoch_before_a_non_finite_loss(trainer, recipe, tmp_path):
    checkpoint = Checkpoint(tmp_path / "0.pt")
    error_of_spoilt_run(with_store(trainer, checkpoint), recipe, step=6, value=math.nan)
    assert len(checkpoint.load()["result"]["history"]) == 1

    uninterrupted, resumed = linear_network(), linear_network()
    trainer.fit(uninterrupted, recipe)
    with_store(trainer, checkpoint).fit(resumed, recipe)

    assert_equal_states(resumed.state_dict(), uninterrupted.state_dict())


def metrics_of(losses: list[float]) -> RunningMetrics:
    """Metrics after batches of two examples with these losses."""
    metrics = RunningMetrics(torch.device("cpu"))
    for loss in losses:
        metrics.add(torch.tensor(loss), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    return metrics


@pytest.mark.parametrize(
    ("losses", "count"),
    [([1.0, math.inf, -math.inf], 1), ([1.0, 2.0, math.nan], 2), ([1.0, 2.0, 3.0], 3)],
)
def test_batches_before_the_first_non_finite_loss_are_counted(losses, count):
    assert metrics_of(losses).finite_batches(3) == count


def test_the_first_non_finite_batch_of_any_process_counts():
    early = metrics_of([1.0, math.inf, -math.inf])
    others = [metrics_of([1.0, 2.0, math.nan]), metrics_of([0.0, 0.0, math.nan])]

    def summed(counts: Tensor) -> Tensor:
        for metrics in others:
            metrics.finite_batches(3, lambda more: counts.add_(more))
        return counts

    assert early.finite_batches(3, summed) == 1


def test_the_history_agrees_with_an_evaluation_by_hand(trainer, recipe):
    model = build("resnet8", 10, DIGITS_SHAPE)
    row = trainer.fit(model, recipe).history[-1]

    ((images, labels),) = trainer.validation_loader.ordered(len(trainer.validation_loader))
    with torch.no_grad():
        logits = model.eval()(images)

    predicted = logits.argmax(1)
    accuracy = (predicted == labels).float().mean().item()
    loss = F.cross_entropy(logits, labels).item()
    assert row["validation_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert row["validation_loss"] == pytest.approx(loss, abs=1e-5)
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        expected = score(labels, predicted, labels=range(10), average="macro", zero_division=0)
        assert row[f"validation_{name}_macro"] == pytest.approx(expected, abs=1e-6)
