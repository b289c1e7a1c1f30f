"""Augmentations by name: images of the same kind, each by its own random numbers alone."""

from dataclasses import replace

import pytest
import torch

from prunelab.core.errors import InputError
from prunelab.data.augment import Augmentation
from prunelab.data.augmentations import AUGMENTATIONS, DRAWS, augment, brightness, erase
from prunelab.data.loader import BatchLoader


def draw(count: int = 6, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of 8x10 pixels and the random numbers of one augmentation."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, channels, 8, 10, generator=generator)
    return images, torch.rand(count, 1, DRAWS, generator=generator)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images_and_do_not_depend_on_their_batch(name, channels):
    images, random = draw(channels=channels)
    before = images.clone()

    changed = augment(images, random, [name])

    assert torch.equal(images, before)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.equal(changed, images)
    alone = [augment(images[row : row + 1], random[row : row + 1], [name]) for row in range(6)]
    torch.testing.assert_close(torch.cat(alone), changed)


def test_brightness_multiplies_every_pixel_of_an_image_by_one_factor():
    images, _ = draw(3)
    random = torch.zeros(3, DRAWS)
    random[:, 0] = torch.tensor([0.0, 0.5, 1.0])

    changed = brightness(images / 2, random)

    for row, factor in enumerate((0.6, 1.0, 1.4)):
        torch.testing.assert_close(changed[row], images[row] / 2 * factor)


def test_erase_blackens_a_quarter_of_the_chosen_images_and_nothing_else():
    images = torch.ones(40, 3, 8, 10)
    random = torch.rand(40, DRAWS, generator=torch.Generator().manual_seed(0))

    changed = erase(images, random)

    black = (changed == 0).float().mean((1, 2, 3))
    assert torch.equal(black, 0.25 * (random[:, 0] < 0.5))
    assert set(changed.unique().tolist()) == {0.0, 1.0}


def test_batches_are_changed_by_name_in_order_and_other_draws_stay(digits, normalise, execution):
    loader = BatchLoader(digits.at(torch.arange(50).numpy()), normalise, execution)
    plain = Augmentation(crop_padding=1, flip=True)

    def batches(augmentation: Augmentation) -> list[torch.Tensor]:
        shuffled = loader.shuffled(50, augmentation, seed=0, epoch=0)
        return [inputs for inputs, _ in shuffled]

    (unchanged,) = batches(plain)
    (changed,) = batches(replace(plain, others=("brightness", "erase")))
    (in_other_order,) = batches(replace(plain, others=("erase", "brightness")))

    mean, std = normalise.mean[0], normalise.std[0]
    pixels, expected = changed * std + mean, unchanged * std + mean
    factors = pixels.flatten(1).amax(1) / expected.flatten(1).amax(1)
    assert factors.min() > 0.55
    assert factors.max() <= 1.4
    assert not torch.equal(changed, unchanged)
    assert not torch.equal(changed, in_other_order)


@pytest.mark.parametrize(
    ("returned", "words"),
    [(lambda images, random: images[:, :, 1:], "of shape"), (lambda images, random: None, "None")],
)
def test_an_augmentation_that_returns_something_else_is_refused(monkeypatch, returned, words):
    monkeypatch.setitem(AUGMENTATIONS._own, "brightness", returned)
    images, random = draw()

    with pytest.raises(InputError, match=r"augmentation brightness returns a .*" + words):
        augment(images, random, ["brightness"])
