"""What must hold on a GPU; run with `make test PYTEST_ARGS="-m gpu"`."""

import numpy as np
import pytest
import torch
from helpers.networks import (
    DIGITS_SHAPE,
    IMAGE_MODELS,
    dense_weights,
    make_retrainer,
    make_trainer,
    small_network,
    with_store,
)
from helpers.params import prune_spec, runtime_params
from helpers.shared_training import EXAMPLES, assert_same_as_one_process, train_with_two_processes

from prunelab.benchmarking.backends import BACKENDS, inputs_of
from prunelab.benchmarking.memory import peaks
from prunelab.benchmarking.suite import Benchmark
from prunelab.data.augment import Augmentation
from prunelab.data.storage import OnDisk
from prunelab.evaluation.predict import predict
from prunelab.models.cost import parameters
from prunelab.models.networks import build, example_input
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import prune
from prunelab.runtime.device import configure
from prunelab.training import masking
from prunelab.training.callbacks import CallAfterStep
from prunelab.training.checkpoints import Checkpoint
from prunelab.training.trainer import Trainer

# CUDA takes seconds to choose kernels for depthwise convolutions: one network with them is enough.
SMALL = ("resnet8", "resnet20_b", "vgg11_bn", "mobilenet_v3_small", "vit_tiny")
NETWORKS = [
    name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in IMAGE_MODELS
]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


@pytest.fixture(params=["fp32", "bf16"])
def gpu_trainer(request, digits, normalise) -> Trainer:
    runtime = runtime_params(device="cuda", precision=request.param)
    ids = torch.arange(320).numpy()
    return make_trainer(
        digits.at(ids[:256]),
        digits.at(ids[256:]),
        normalise=normalise,
        augmentation=Augmentation(crop_padding=1, flip=True),
        execution=configure(runtime),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_training_repeats_and_resumes_to_the_bit(name, gpu_trainer, recipe, tmp_path):
    whole, again, resumed = (build(name, 10, DIGITS_SHAPE) for _ in range(3))

    expected = gpu_trainer.fit(whole, recipe)
    assert gpu_trainer.fit(again, recipe).history == expected.history
    store = Checkpoint(tmp_path / "0.pt")
    with_store(gpu_trainer, _StopsAfterOne(store)).fit(build(name, 10, DIGITS_SHAPE), recipe)
    with_store(gpu_trainer, store).fit(resumed, recipe)

    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
        assert torch.equal(value, resumed.state_dict()[key])


class _StopsAfterOne:
    """Saves the first epoch only: what a kill during the second leaves behind."""

    def __init__(self, store: Checkpoint):
        self.store = store
        self.saved = False

    def load(self):
        return None

    def save(self, state):
        if not self.saved:
            self.store.save(state)
            self.saved = True


@pytest.mark.parametrize("method", [name for name in METHODS if small_network(name) == "resnet8"])
def test_masks_hold_and_channels_stay_removed_on_the_gpu(method, gpu_trainer, recipe):
    model = build("resnet8", 10, DIGITS_SHAPE)
    parameters_before = parameters(model)
    pruned = prune(
        model,
        "resnet8",
        prune_spec(method, 0.5, epochs=1, iterations=2, samples=64),
        shape=DIGITS_SHAPE,
        seed=0,
        retrainer=make_retrainer(gpu_trainer, recipe),
        dense_weights=dense_weights("resnet8", model),
    )

    gpu_trainer.execution.place(model)
    hold = CallAfterStep(masking.hold(model, pruned.masks))
    fitted = gpu_trainer.fit(model, recipe, callback=hold)

    masking.verify(model, pruned.masks)
    assert METHODS[method].masks or parameters(model) < parameters_before

    predictions = predict(model, gpu_trainer.validation_loader, 64, gpu_trainer.execution)
    labels = gpu_trainer.validation_loader.labels.cpu().numpy()
    assert (predictions.classes == labels).mean() == pytest.approx(
        fitted.history[-1]["validation_accuracy"], abs=0.05
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_are_whole_while_the_gpu_computes(tmp_path, workers, gpu_trainer):
    """Each is copied ahead, on another stream than the one that reads it."""
    rows = np.random.default_rng(0).integers(0, 256, (512, 3, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "rows.npy", rows)
    stored = np.load(tmp_path / "rows.npy", mmap_mode="r")
    stream = OnDisk(stored, gpu_trainer.execution.device, workers)
    busy = torch.randn(2048, 2048, device="cuda")

    received = []
    for batch in stream.ordered(32):
        for _ in range(10):
            busy = (busy @ busy).clamp(-1, 1)
        received.append(batch + 0)

    assert np.array_equal(torch.cat(received).cpu().numpy(), rows)


@pytest.mark.parametrize("name", ["cuda_graph", "compiled"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_backends_give_the_outputs_of_the_network(name, batch_size, gpu_trainer):
    execution = gpu_trainer.execution
    model = execution.place(build("resnet8", 10, DIGITS_SHAPE)).eval()
    inputs = inputs_of(DIGITS_SHAPE, batch_size, execution)
    call = BACKENDS[name](model, inputs, execution)
    expected = BACKENDS["eager"](model, inputs, execution)()

    for _ in range(2):
        torch.testing.assert_close(call(), expected, rtol=2e-2, atol=2e-2)


def test_benchmark_measures_latency_operators_and_energy(gpu_trainer):
    models = {name: build("resnet8", 10, DIGITS_SHAPE).eval() for name in ("dense", "same")}
    load = {name: lambda: build("resnet8", 10, DIGITS_SHAPE).eval() for name in models}
    placed = {name: gpu_trainer.execution.place(model) for name, model in models.items()}
    benchmark = Benchmark(placed, load, example_input(DIGITS_SHAPE), gpu_trainer.execution)

    for backend in ("eager", "cuda_graph"):
        dense, same = benchmark.latency(backend, 64, rounds=10, seconds=1.0)
        assert 0 < dense["latency_ms_p50"] <= dense["latency_ms_p95"]
        assert same["faster"] == pytest.approx(1, abs=0.3)

    operators = benchmark.operators([64])
    assert any(row["cuda_ms"] > 0 for row in operators)

    energy = benchmark.energy(64)
    assert isinstance(energy, str) or all(row["joules"] > 0 for row in energy)


def test_peak_memory_is_the_memory_of_the_activations():
    wide = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 1 << 16), torch.nn.ReLU(inplace=True)
    ).eval()

    execution = configure(runtime_params(device="cuda", channels_last=False))
    (peak,) = peaks(execution, [lambda: wide], (1, 8, 8), 64)

    # One float per input and output, without the weights.
    assert peak == pytest.approx(64 * (1 << 16) * 4, rel=0.05)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees fewer than two GPUs")
def test_two_gpus_take_the_steps_of_one(tmp_path):
    train_with_two_processes(tmp_path, "cuda")
    for case in EXAMPLES:
        assert_same_as_one_process(tmp_path, case, "cuda")
