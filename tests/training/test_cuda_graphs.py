"""Recorded training steps: on a GPU they compute the bits of steps that are run one by one."""

import gc
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from helpers.data import mapped
from helpers.interrupted import StopAfterEpoch, StoppedError
from helpers.networks import (
    BERT,
    DIGITS_SHAPE,
    TOKENS,
    dense_weights,
    make_retrainer,
    make_trainer,
    with_store,
)
from helpers.params import prune_spec, runtime_params, with_changes
from torch import Tensor, nn

from prunelab.config.params import Recipe
from prunelab.core.errors import InputError
from prunelab.data.augment import Augmentation
from prunelab.models.frozen import frozen
from prunelab.models.networks import build
from prunelab.pruning.prune import prune
from prunelab.runtime.device import configure
from prunelab.runtime.streams import in_threads
from prunelab.training import cuda_graphs, masking
from prunelab.training.callbacks import CallAfterStep, Callback
from prunelab.training.checkpoints import Checkpoint
from prunelab.training.cuda_graphs import GraphRecorder
from prunelab.training.distillation import Teacher
from prunelab.training.optimizers import OPTIMIZERS
from prunelab.training.trainer import Trainer, TrainResult

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
on_gpu = [pytest.param("fp32", marks=needs_gpu), pytest.param("bf16", marks=needs_gpu)]
gpu = pytest.mark.parametrize("precision", [pytest.param("bf16", marks=needs_gpu)])

# Of 250 digits in batches of 64, two have 63 and two have 62 examples: two shapes, two graphs.
EXAMPLES = 250
EPOCHS = 5

# Small networks that differ in what their steps consist of. With depthwise convolutions CUDA takes
# seconds to choose kernels, so one network that has them is enough; it has dropout too.
NETWORKS = ("resnet8", "resnet20_b", "vgg11_bn", "vit_tiny")
DEPTHWISE = "mobilenet_v3_small"


@pytest.fixture
def replays(monkeypatch) -> Counter:
    """How often each shape of the inputs was replayed; here all recordings are worth it."""
    counts: Counter[torch.Size] = Counter()
    replay = cuda_graphs._Recording.replay

    def counting(self, step):
        counts[step.inputs.shape] += 1
        return replay(self, step)

    monkeypatch.setattr(cuda_graphs, "MIN_CALLS", 1)
    monkeypatch.setattr(cuda_graphs._Recording, "replay", counting)
    monkeypatch.setattr(cuda_graphs, "_announced", set())
    return counts


@pytest.fixture
def make_gpu_trainer(digits, normalise):
    def make(precision: str, streamed=None, augmentation=None, **runtime: object) -> Trainer:
        execution = configure(runtime_params(device="cuda", precision=precision, **runtime))
        ids = torch.arange(EXAMPLES + 64).numpy()
        train = digits.at(ids[:EXAMPLES])
        if streamed:
            train = mapped(train, streamed)
        return make_trainer(
            train,
            digits.at(ids[EXAMPLES:]),
            normalise=normalise,
            augmentation=augmentation or Augmentation(crop_padding=1, flip=True),
            execution=execution,
        )

    return make


@pytest.fixture
def graph_recipe(recipe) -> Recipe:
    return with_changes(recipe, epochs=EPOCHS)


def without_graphs(trainer: Trainer) -> Trainer:
    return replace(trainer, execution=replace(trainer.execution, cuda_graphs=False))


def half_masks(model: nn.Module) -> masking.Masks:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(parameter.shape, generator=generator) < 0.5
        for name, parameter in model.named_parameters()
        if parameter.dim() == 4
    }


def assert_same(
    model: nn.Module, result: TrainResult, expected: nn.Module, expected_result: TrainResult
) -> None:
    state = model.state_dict()
    different = [
        name for name, value in expected.state_dict().items() if not torch.equal(state[name], value)
    ]
    assert different == []
    assert result.history == expected_result.history


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *[pytest.param(name, "fp32", marks=needs_gpu) for name in NETWORKS],
        *[pytest.param(name, "bf16", marks=needs_gpu) for name in (*NETWORKS, DEPTHWISE)],
    ],
)
def test_replayed_steps_give_the_bits_of_steps_that_run(
    name, precision, make_gpu_trainer, graph_recipe, replays
):
    trainer = make_gpu_trainer(precision)
    recorded, expected = build(name, 10, DIGITS_SHAPE), build(name, 10, DIGITS_SHAPE)

    expected_result = without_graphs(trainer).fit(expected, graph_recipe)
    assert replays.total() == 0
    result = trainer.fit(recorded, graph_recipe)

    assert_same(recorded, result, expected, expected_result)
    # Two batches of each size per epoch; the first three of each size only warm up.
    for images in (62, 63):
        assert replays[torch.Size((images, *DIGITS_SHAPE))] == 2 * EPOCHS - 3
    assert replays[torch.Size((64, *DIGITS_SHAPE))] == EPOCHS - 3  # the validation


@pytest.mark.parametrize("precision", on_gpu)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_epochs_that_train_only_the_head_are_graphs_of_their_own(
    optimizer, precision, make_gpu_trainer, graph_recipe, replays
):
    recipe = with_changes(
        graph_recipe,
        **{"optimizer": optimizer, "learning_rate": 0.01},
        **{"freeze_epochs": 2, "backbone_rate": 0.1, "norm": "eval"},
    )
    trainer = replace(make_gpu_trainer(precision), head="linear")
    recorded, expected = build("resnet8", 10, DIGITS_SHAPE), build("resnet8", 10, DIGITS_SHAPE)

    expected_result = without_graphs(trainer).fit(expected, recipe)
    result = trainer.fit(recorded, recipe)

    assert_same(recorded, result, expected, expected_result)
    # Two batches of each size per epoch; in both kinds of epochs the first three only warm up.
    for images in (62, 63):
        assert replays[torch.Size((images, *DIGITS_SHAPE))] == 2 * EPOCHS - 3 - 3


@pytest.mark.parametrize("precision", on_gpu)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replays_keep_masks_and_learn_from_a_teacher(
    optimizer, precision, make_gpu_trainer, graph_recipe, replays
):
    trainer = make_gpu_trainer(precision)
    teacher = trainer.execution.place(build("resnet8", 10, DIGITS_SHAPE, 9)).eval()
    trainer = replace(trainer, teacher=Teacher(teacher.requires_grad_(False), 0.5, 2.0))
    recipe = with_changes(
        graph_recipe, optimizer=optimizer, learning_rate=0.01, label_smoothing=0.1
    )

    def train(trainer: Trainer) -> tuple[nn.Module, TrainResult]:
        model = trainer.execution.place(build("resnet8", 10, DIGITS_SHAPE))
        hold = CallAfterStep(masking.hold(model, half_masks(model)))
        with frozen(model, ["layer1.*"]):
            result = trainer.fit(model, recipe, start_epoch=1, callback=hold, keep_epochs={3})
        masking.verify(model, half_masks(model))
        return model, result

    expected, expected_result = train(without_graphs(trainer))
    recorded, result = train(trainer)

    assert replays.total() > 0
    assert_same(recorded, result, expected, expected_result)
    for name, value in expected_result.kept[3].items():
        assert torch.equal(result.kept[3][name], value)


@pytest.mark.parametrize("precision", on_gpu)
@pytest.mark.parametrize(
    "method",
    [
        "bn_scale_channel_sparse",
        "group_lasso_channel_sparse",
        "growing_l2_channel_sparse",
        "l1_channel_iterative",
        "l1_unstructured_gradual",
        "l1_unstructured_lottery",
        "l2_channel_soft",
    ],
)
def test_schedules_prune_to_the_same_bits(
    method, precision, make_gpu_trainer, graph_recipe, replays
):
    trainer = make_gpu_trainer(precision)

    def pruned(trainer: Trainer) -> tuple[nn.Module, masking.Masks]:
        model = build("resnet8", 10, DIGITS_SHAPE)
        spec = prune_spec(method, 0.5, epochs=EPOCHS, iterations=2, samples=64)
        result = prune(
            model,
            "resnet8",
            spec,
            shape=DIGITS_SHAPE,
            seed=0,
            retrainer=make_retrainer(trainer, graph_recipe),
            dense_weights=dense_weights("resnet8", model),
        )
        return model, result.masks

    expected, expected_masks = pruned(without_graphs(trainer))
    recorded, masks = pruned(trainer)

    # Lottery tickets train by a base recipe of one epoch, too short to be recorded.
    assert (replays.total() > 0) == (method != "l1_unstructured_lottery")
    assert_same(recorded, TrainResult(), expected, TrainResult())
    for name, mask in expected_masks.items():
        assert torch.equal(masks[name], mask)


@gpu
@pytest.mark.parametrize("kind", ["crops", "streamed", "not deterministic"])
def test_other_inputs_are_recorded_too(
    kind, precision, make_gpu_trainer, graph_recipe, replays, tmp_path
):
    options: dict[str, object] = {}
    if kind == "crops":
        options = {"augmentation": Augmentation(crop_padding=2, flip=True, crop_scale=0.3)}
    elif kind == "streamed":
        options = {"streamed": tmp_path}
    else:
        options = {"deterministic": False}
    trainer = make_gpu_trainer(precision, **options)
    recorded, expected = build("resnet8", 10, DIGITS_SHAPE), build("resnet8", 10, DIGITS_SHAPE)

    expected_result = without_graphs(trainer).fit(expected, graph_recipe)
    result = trainer.fit(recorded, graph_recipe)

    assert replays.total() > 0
    if kind == "not deterministic":
        last, expected_last = result.history[-1], expected_result.history[-1]
        assert last["loss"] == pytest.approx(expected_last["loss"], abs=0.2)
    else:
        assert_same(recorded, result, expected, expected_result)


@gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_stopped_among_replays_resumes_to_the_bit(
    optimizer, precision, make_gpu_trainer, graph_recipe, replays, tmp_path
):
    recipe = with_changes(graph_recipe, epochs=7, optimizer=optimizer, learning_rate=0.01)
    trainer = make_gpu_trainer(precision)
    expected, resumed = build("resnet8", 10, DIGITS_SHAPE), build("resnet8", 10, DIGITS_SHAPE)
    expected_result = without_graphs(trainer).fit(expected, recipe)

    path = tmp_path / "0.pt"
    with pytest.raises(StoppedError):
        stopping = with_store(trainer, StopAfterEpoch(path, epochs=3))
        stopping.fit(build("resnet8", 10, DIGITS_SHAPE), recipe)
    replays_before = replays.total()
    result = with_store(trainer, Checkpoint(path)).fit(resumed, recipe)

    assert 0 < replays_before < replays.total()
    assert_same(resumed, result, expected, expected_result)


class _NaNFrom(Callback):
    """From a progress on, the gradient of one parameter is NaN, and after a step so is the loss."""

    def __init__(self, model: nn.Module, progress: float) -> None:
        self.parameter = next(model.parameters())
        self.progress = progress

    def penalty(self, progress: float | Tensor) -> Tensor:
        factor = torch.where(torch.as_tensor(progress) >= self.progress, math.nan, 0.0)
        return factor * self.parameter.sum()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_a_loss_that_a_step_spoils_names_its_batch(device, digits, normalise, recipe, replays):
    """On a GPU it is a replayed step, and no value is read before the epoch ends."""
    trainer = make_trainer(
        digits.at(torch.arange(EXAMPLES).numpy()),
        digits.at(torch.arange(EXAMPLES, EXAMPLES + 64).numpy()),
        normalise=normalise,
        execution=configure(runtime_params(device=device)),
    )
    model = trainer.execution.place(build("resnet8", 10, DIGITS_SHAPE))
    spoilt_step = 4 * (EPOCHS - 1) + 1  # counted from 0
    callback = _NaNFrom(model, spoilt_step / (4 * EPOCHS) - 1e-6)

    with pytest.raises(InputError) as caught:
        trainer.fit(model, with_changes(recipe, epochs=EPOCHS), callback=callback)

    assert (replays.total() > 0) == (device == "cuda")
    assert f"in epoch {EPOCHS}, batch 3 of 4" in caught.value.problems[0]


class _CannotBeRecorded(Callback):
    """Does something that no recording may contain."""

    def __init__(self, what: str) -> None:
        self.what = what

    def penalty(self, progress: float | Tensor) -> Tensor:
        assert isinstance(progress, Tensor)
        if self.what == "waits":
            return torch.full((), progress.item(), device="cuda")
        if torch.cuda.is_current_stream_capturing():
            torch.empty(1 << 44, dtype=torch.uint8, device="cuda")
        return progress * 1


@gpu
@pytest.mark.parametrize("name", ["resnet8", "alexnet"])
@pytest.mark.parametrize("what", ["waits", "takes all memory"])
def test_a_recording_that_fails_costs_a_line_and_nothing_else(
    what, name, precision, make_gpu_trainer, graph_recipe, replays, capsys
):
    """`alexnet` has dropout, so torch's random generator took part in the recording."""
    trainer = replace(make_gpu_trainer(precision), label="the label")
    expected, unrecorded = build(name, 10, DIGITS_SHAPE), build(name, 10, DIGITS_SHAPE)
    expected_result = without_graphs(trainer).fit(
        expected, graph_recipe, callback=_CannotBeRecorded(what)
    )

    result = trainer.fit(unrecorded, graph_recipe, callback=_CannotBeRecorded(what))

    assert_same(unrecorded, result, expected, expected_result)
    assert replays.total() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "not recorded" in line]
    assert len(lines) == 1
    assert lines[0].startswith("the label: steps are not recorded as CUDA graphs: ")

    # Nothing is left behind: the next training is recorded.
    expected, recorded = build(name, 10, DIGITS_SHAPE), build(name, 10, DIGITS_SHAPE)
    expected_result = without_graphs(trainer).fit(expected, graph_recipe)
    result = trainer.fit(recorded, graph_recipe)
    assert replays.total() > 0
    assert_same(recorded, result, expected, expected_result)


@gpu
def test_too_little_memory_runs_steps_as_they_are(
    precision, make_gpu_trainer, graph_recipe, replays, capsys, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 1000))
    result = make_gpu_trainer(precision).fit(build("resnet8", 10, DIGITS_SHAPE), graph_recipe)

    assert len(result.history) == EPOCHS
    assert replays.total() == 0
    assert "too little memory is left" in capsys.readouterr().out


@gpu
def test_texts_of_different_lengths_run_as_they_are(
    precision, text_trainer, graph_recipe, replays, capsys
):
    execution = configure(runtime_params(device="cuda", precision=precision))
    trainer = replace(text_trainer, execution=execution)
    trainer = replace(
        trainer,
        train_loader=_moved(trainer.train_loader, execution),
        validation_loader=_moved(trainer.validation_loader, execution),
    )

    for _ in range(2):
        result = trainer.fit(build("bert", 10, (TOKENS,), **BERT), graph_recipe)

    assert len(result.history) == EPOCHS
    assert replays.total() == 0
    assert capsys.readouterr().out.count("texts differ in length") == 1


def _moved(loader, execution):
    from prunelab.data.loader import BatchLoader
    from prunelab.data.splits import Split

    inputs = torch.cat([batch.inputs for batch in loader.raw_ordered(64)])
    return BatchLoader(Split(inputs.numpy(), loader.labels.numpy()), None, execution)


@gpu
def test_many_trainings_in_one_process_leave_no_memory_behind(
    precision, make_gpu_trainer, graph_recipe, replays
):
    """A graph that is freed too early or too late crashes or fills the GPU."""
    trainer = make_gpu_trainer(precision)
    in_use = []
    for _ in range(3):
        for name in ("resnet8", "vgg11_bn"):
            trainer.fit(build(name, 10, DIGITS_SHAPE), graph_recipe)
        gc.collect()
        torch.cuda.empty_cache()
        in_use.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))

    assert replays.total() > 0
    assert in_use[1] == in_use[2]


@pytest.mark.parametrize("precision", on_gpu)
@pytest.mark.parametrize("name", ["resnet20", "alexnet"])
def test_seeds_in_threads_train_to_the_bits_of_seeds_one_after_another(
    name, precision, make_gpu_trainer, graph_recipe, replays
):
    """`alexnet` has dropout."""
    trainer = make_gpu_trainer(precision)

    def train(seed: int) -> tuple[nn.Module, TrainResult]:
        model = build(name, 10, DIGITS_SHAPE, seed)
        return model, replace(trainer, seed=seed).fit(model, graph_recipe)

    seeds = [0, 1, 2]
    expected = [train(seed) for seed in seeds]
    results = list(in_threads(seeds, train, trainer.execution.device))
    for (model, result), (other, other_result) in zip(results, expected, strict=True):
        assert_same(model, result, other, other_result)
    assert replays.total() > 0


@gpu
def test_an_error_of_one_seed_ends_the_others(precision, make_gpu_trainer, graph_recipe, replays):
    trainer = make_gpu_trainer(precision)
    finished = []

    def train(seed: int) -> int:
        recipe = with_changes(graph_recipe, epochs=100)
        model = trainer.execution.place(build("resnet8", 10, DIGITS_SHAPE, seed))
        callback = None
        if seed == 1:
            callback = _NaNFrom(model, 0.06)
        trainer.fit(model, recipe, callback=callback)
        finished.append(seed)
        return seed

    with pytest.raises(InputError, match="loss became nan"):
        list(in_threads([0, 1, 2], train, trainer.execution.device))
    assert finished == []


def test_few_calls_are_not_worth_a_recording():
    def function(step):
        return None

    recorder = GraphRecorder(torch.device("cpu"), "label")

    assert recorder.replayed(function, calls=cuda_graphs.MIN_CALLS - 1) is function
    assert recorder.replayed(function, calls=cuda_graphs.MIN_CALLS) is not function


def test_a_reason_is_given_once(monkeypatch, capsys):
    monkeypatch.setattr(cuda_graphs, "_announced", set())

    for label in ("one", "another"):
        cuda_graphs.say_why_not(label, "the reason")

    assert capsys.readouterr().out == ("one: steps are not recorded as CUDA graphs: the reason\n")
