"""Our optimizers against those of torch, with the fused kernels of both."""

import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import BERT, DIGITS_SHAPE, TOKENS
from helpers.params import PROJECT, with_changes
from torch import Tensor, nn

from prunelab.config.params import Recipe
from prunelab.models.networks import build
from prunelab.training.optimizers import OPTIMIZERS, Optimizer, build_optimizer

STEPS = 4

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
        ],
    ),
]


def torch_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in trained if each.dim() > 1]},
        {"params": [each for each in trained if each.dim() <= 1], "weight_decay": 0.0},
    ]
    shared = {"lr": 0.1, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=nesterov, **shared)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[recipe.optimizer](groups, betas=(recipe.momentum, 0.999), **shared)


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network in channels_last, and a batch of inputs."""
    generator = torch.Generator().manual_seed(1)
    if name == "bert":
        return build(name, 10, (TOKENS,), **BERT), torch.randint(
            1, 40, (8, TOKENS), generator=generator
        )
    inputs = torch.randn(8, *DIGITS_SHAPE, generator=generator)
    return build(name, 10, DIGITS_SHAPE).to(memory_format=torch.channels_last), inputs


def backward(model: nn.Module, inputs: Tensor, step: int) -> None:
    torch.manual_seed(step)  # of dropout
    labels = (torch.arange(len(inputs), device=inputs.device) + step) % 10
    F.cross_entropy(model(inputs), labels).backward()


def learning_rate(step: int) -> float:
    return 0.1 / (3 + step)


def train_with_ours(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, steps: range, *, tensor: bool = False
) -> None:
    for step in steps:
        lr: float | Tensor = learning_rate(step)
        if tensor:
            lr = torch.tensor(lr, device=inputs.device)
        optimizer.zero_grad()
        backward(model, inputs, step)
        optimizer.step(lr)


def train_with_torch(
    model: nn.Module, recipe: Recipe, inputs: Tensor, *, tensor: bool = False
) -> torch.optim.Optimizer:
    optimizer = torch_optimizer(model, recipe)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
            if tensor:
                group["lr"] = torch.tensor(learning_rate(step), device=inputs.device)
        optimizer.zero_grad()
        backward(model, inputs, step)
        optimizer.step()
    return optimizer


def assert_equal_networks(left: nn.Module, right: nn.Module) -> None:
    right_state = right.state_dict()
    for name, value in left.state_dict().items():
        assert torch.equal(value, right_state[name]), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["resnet8", "vgg11", "vit_tiny", "bert"])
def test_steps_are_those_of_torch_to_the_bit(name, optimizer, momentum, device, recipe):
    recipe = with_changes(recipe, optimizer=optimizer, momentum=momentum, weight_decay=0.03)
    model, inputs = network(name)
    ours, theirs, inputs = model.to(device), deepcopy(model).to(device), inputs.to(device)

    our_optimizer = build_optimizer(ours, recipe)
    train_with_ours(ours, our_optimizer, inputs, range(STEPS))
    their_optimizer = train_with_torch(theirs, recipe, inputs)

    assert_equal_networks(ours, theirs)
    our_tensors = [list(state.values()) for state in our_optimizer.state_dict()["state"].values()]
    their_state = their_optimizer.state_dict()["state"]
    for number, tensors in enumerate(our_tensors):
        their_tensors = [each for each in their_state.get(number, {}).values() if each is not None]
        for tensor, their_tensor in zip(tensors, their_tensors, strict=True):
            assert torch.equal(tensor, their_tensor)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_learning_rate_on_the_device_gives_the_steps_of_torch(optimizer, device, recipe):
    recipe = with_changes(recipe, optimizer=optimizer, weight_decay=0.03)
    model, inputs = network("resnet8")
    ours, theirs, inputs = model.to(device), deepcopy(model).to(device), inputs.to(device)

    train_with_ours(ours, build_optimizer(ours, recipe), inputs, range(STEPS), tensor=True)
    train_with_torch(theirs, recipe, inputs, tensor=True)

    assert_equal_networks(ours, theirs)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_parameter_without_a_gradient_stays_until_it_gets_one(optimizer, recipe):
    """Torch has no such step for SGD; a late parameter then begins as any parameter does."""
    recipe = with_changes(recipe, optimizer=optimizer, weight_decay=0.03)
    late = nn.Parameter(torch.ones(2, 2))
    early = nn.Parameter(torch.ones(2, 2))
    model = nn.Module()
    model.early, model.late = early, late
    optimizer_of_both = build_optimizer(model, recipe)

    early.grad = torch.full((2, 2), 0.5)
    optimizer_of_both.step(0.1)
    assert torch.equal(late, torch.ones(2, 2))
    assert list(optimizer_of_both.state_dict()["state"]) == [0]
    after_first_step = early.detach().clone()

    early.grad, late.grad = None, torch.full((2, 2), 0.5)
    optimizer_of_both.step(0.1)
    assert torch.equal(late, after_first_step)
    assert torch.equal(early, after_first_step)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_loaded_state_goes_on_to_the_bit_and_stays_at_its_addresses(optimizer, device, recipe):
    recipe = with_changes(recipe, optimizer=optimizer)
    model, inputs = network("resnet8")
    whole, resumed, inputs = model.to(device), deepcopy(model).to(device), inputs.to(device)
    whole_optimizer = build_optimizer(whole, recipe)

    train_with_ours(whole, whole_optimizer, inputs, range(2))
    weights, state = deepcopy(whole.state_dict()), deepcopy(whole_optimizer.state_dict())
    train_with_ours(whole, whole_optimizer, inputs, range(2, STEPS))

    # Into a new optimizer, then into one that has state.
    resumed_optimizer = build_optimizer(resumed, recipe)
    resumed_optimizer.load_state_dict(state)
    addresses = _addresses(resumed_optimizer)
    for _ in range(2):
        resumed.load_state_dict(weights)
        resumed_optimizer.load_state_dict(state)
        train_with_ours(resumed, resumed_optimizer, inputs, range(2, STEPS))
        assert_equal_networks(resumed, whole)
    assert _addresses(resumed_optimizer) == addresses


def _addresses(optimizer: Optimizer) -> list[int]:
    states = optimizer.state_dict()["state"].values()
    return [tensor.data_ptr() for state in states for tensor in state.values()]


SLOW_IMPORTS = ("torch._dynamo", "torch._inductor", "sympy", "triton")

TRAIN_AND_REPORT = f"""
import sys
from pathlib import Path
import numpy as np
from prunelab.config.params import Finetune, Normalise, Runtime, read_params
from prunelab.data.augment import Augmentation
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.models.networks import build
from prunelab.runtime.device import configure
from prunelab.training.checkpoints import Checkpoint
from prunelab.training.trainer import Trainer

shipped = read_params()
execution = configure(Runtime(**shipped["runtime"] | {{"device": "cpu"}}))
images = np.zeros((32, 1, 8, 8), np.uint8)
split = Split(images, np.arange(32) % 10)
loader = BatchLoader(split, Normalise(mean=[0.5], std=[0.5]), execution)
checkpoint = Checkpoint(Path(sys.argv[1]))
trainer = Trainer(
    loader, loader, Augmentation(1, True), execution, checkpoints=lambda name: checkpoint
)
for optimizer in ("sgd", "adam", "adamw"):
    recipe = Finetune(**shipped["finetune"] | {{"epochs": 1, "optimizer": optimizer}})
    trainer.fit(build("resnet8", 10, (1, 8, 8)), recipe)
    trainer.fit(build("resnet8", 10, (1, 8, 8)), recipe)  # from the checkpoint
    Path(sys.argv[1]).unlink()
print([name for name in {SLOW_IMPORTS} if name in sys.modules])
"""


def test_training_imports_no_compiler(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", TRAIN_AND_REPORT, str(tmp_path / "0.pt")],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"
