"""Small networks, their shapes, and what trains them."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from helpers.params import train_params
from prunelab.artifacts.networks import ModelCard
from prunelab.config.params import Finetune, Normalise
from prunelab.data.augment import Augmentation
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.models.catalogue import MODELS, Shape
from prunelab.models.networks import build, build_on_meta
from prunelab.pruning.methods import METHODS
from prunelab.pruning.schedules import DenseWeights
from prunelab.runtime.device import Execution
from prunelab.training.retraining import Retrainer
from prunelab.training.trainer import CheckpointStore, Trainer

DIGITS_SHAPE = (1, 8, 8)


CARD = ModelCard(
    model="resnet8",
    classes=10,
    input_shape=DIGITS_SHAPE,
    normalise=Normalise(mean=[0.3], std=[0.4]),
    seed=0,
    imported=None,
)
# The card of a network that reads its inputs as they are.
UNSCALED_CARD = CARD.model_copy(update={"normalise": Normalise(mean=[0.0], std=[1.0])})


def encoder_card(tokens: int, options: Mapping[str, int], **fields: object) -> ModelCard:
    """The card of a text encoder of two classes that was trained from scratch."""
    return ModelCard(
        model="bert",
        classes=2,
        input_shape=(tokens,),
        options=dict(options),
        normalise=None,
        seed=0,
        imported=None,
        **fields,
    )


TOKENS = 12


IMAGE_MODELS = [name for name, architecture in MODELS.items() if architecture.reads == "images"]


# One network of every kind, for tests that take long. The others are in the slow tests.
KINDS = (
    "resnet8",
    "resnet20",
    "resnet20_b",
    "resnet26_dse",
    "vgg11",
    "vgg11_bn",
    "mobilenet_v3_small",
    "vit_tiny",
    *MODELS.plugins,
)


def zeroed(name: str, classes: int, shape: Shape) -> nn.Module:
    """A network whose weights are all 0: drawing the weights of a large one takes seconds."""
    model = build_on_meta(name, classes, shape).to_empty(device="cpu").eval()
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def make_trainer(
    train: Split,
    validation: Split,
    *,
    execution: Execution,
    normalise: Normalise | None = None,
    augmentation: Augmentation | None = None,
) -> Trainer:
    """A trainer with seed 0 that keeps no checkpoints; `normalise` is None for texts."""
    return Trainer(
        BatchLoader(train, normalise, execution),
        BatchLoader(validation, normalise, execution),
        augmentation or Augmentation(),
        execution,
    )


def with_store(trainer: Trainer, store: CheckpointStore) -> Trainer:
    """The same trainer with one store for all its trainings."""
    return replace(trainer, checkpoints=lambda name: store)


def make_retrainer(trainer: Trainer, finetune: Finetune) -> Retrainer:
    """A retrainer whose base recipe has two epochs and rewinds to the first."""
    base = train_params(epochs=2, rewind_epoch=1, batch_size=64)
    return Retrainer(trainer, finetune, base)


BERT = {"vocab": 40, "hidden": 16, "layers": 2, "heads": 4, "intermediate": 32, "positions": 16}


def small_network(method: str) -> str:
    """The smallest network that a method applies to."""
    return "bert" if METHODS[method].granularity in ("head", "hidden") else "resnet8"


def shape_of(name: str) -> tuple[int, ...]:
    return (TOKENS,) if name == "bert" else DIGITS_SHAPE


def trained(name: str, seed: int = 0) -> nn.Module:
    """A network whose norms are not at their initial values, so a forgotten bias or scale shows."""
    options = BERT if name == "bert" else {}
    model = build(name, 10, shape_of(name), seed, **options)

    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            variance = torch.rand(module.running_var.shape, generator=generator) + 0.5
            module.running_var.copy_(variance)

    return model.eval()


def dense_weights(name: str, model: nn.Module) -> DenseWeights:
    state = deepcopy(model.state_dict())
    return DenseWeights(init=state, rewind=state, fresh=partial(trained, name, 7))
