"""What pruning must know of a network: the layers that make its outputs are found by its graph."""

import pytest
import torch
from helpers.modules import IMAGES, ResidualNet, TokenNet, perceptron
from helpers.networks import KINDS, TOKENS, trained
from torch import nn

from prunelab.models.catalogue import MODELS
from prunelab.models.networks import build, example_input
from prunelab.models.structure import output_layers, registered_structure, traced_structure


@pytest.mark.parametrize("name", KINDS)
def test_the_head_of_a_network_of_the_table_makes_its_outputs(name):
    shape = (3, 32, 32)
    model = build(name, 5, shape)

    assert output_layers(model, example_input(shape)) == (MODELS[name].head,)


def test_the_head_of_a_text_encoder_makes_its_outputs():
    assert output_layers(trained("bert"), example_input((TOKENS,))) == ("classifier",)


@pytest.mark.parametrize(
    ("model", "example", "outputs"),
    [
        (ResidualNet(), IMAGES[:1], ("head",)),
        (TokenNet(), torch.ones(1, 5, dtype=torch.int64), ("head",)),
        (perceptron(), torch.zeros(1, 4), ("4",)),
        (nn.Sequential(perceptron(), nn.Softmax(1)), torch.zeros(1, 4), ("0.4",)),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            IMAGES,
            ("0",),
        ),
        (
            nn.TransformerEncoderLayer(8, 2, 16),
            torch.zeros(1, 3, 8),
            ("linear2", "self_attn.out_proj"),
        ),
    ],
    ids=["convolutions", "tokens", "numbers", "activation", "norm", "residual stream"],
)
def test_layers_make_the_outputs_if_no_layer_comes_after_them(model, example, outputs):
    assert output_layers(model.eval(), example) == outputs


def test_finding_them_leaves_a_network_as_it_was():
    model = ResidualNet().train()
    model.conv1.weight.requires_grad_(False)

    traced_structure(model, IMAGES[:1])

    assert model.training
    assert not model.conv1.weight.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


def test_registered_networks_also_fix_what_their_table_says():
    structure = registered_structure("resnet8", build("resnet8", 10, (1, 8, 8)), (1, 8, 8))

    assert structure.outputs == ("linear",)
    assert {"linear", "conv1"} < set(structure.fixed)
    assert structure.example.shape == (1, 1, 8, 8)
