"""Networks that draw random numbers while they train are known as such."""

import pytest
import torch
from helpers.networks import BERT, DIGITS_SHAPE, IMAGE_MODELS, KINDS, TOKENS

from prunelab.models.networks import build
from prunelab.models.randomness import draws_random_numbers

NAMES = [
    name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in IMAGE_MODELS
]


def moves_the_generator(model: torch.nn.Module, inputs: torch.Tensor) -> bool:
    before = torch.get_rng_state()
    model.train()(inputs)
    return not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_image_networks_that_draw_are_known(name):
    model = build(name, 10, DIGITS_SHAPE)
    assert draws_random_numbers(model) == moves_the_generator(model, torch.rand(2, *DIGITS_SHAPE))


def test_text_encoders_draw():
    model = build("bert", 10, (TOKENS,), **BERT)
    assert draws_random_numbers(model)
    assert moves_the_generator(model, torch.randint(1, 40, (2, TOKENS)))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_timms_networks_that_drop_features_without_a_layer_are_known(share):
    pytest.importorskip("timm")
    shape = (3, 64, 64)
    model = build("timm/tf_efficientnet_lite0", 10, shape, dropout=share)
    assert draws_random_numbers(model) == (share > 0)
    assert moves_the_generator(model, torch.rand(2, *shape)) == (share > 0)


def test_a_share_of_zero_draws_nothing():
    assert not draws_random_numbers(torch.nn.Dropout(0.0))
    assert draws_random_numbers(torch.nn.Sequential(torch.nn.Dropout(0.1)))
