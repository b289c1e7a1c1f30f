"""Masks over weights: choose them from a saliency, apply them, hold them, verify them. True keeps a weight."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Saliency = dict[str, Tensor]
Masks = dict[str, Tensor]


def choose_global(saliency: Saliency, ratio: float) -> Masks:
    """Drop the `ratio` of all weights that matter least, by one threshold over the whole network."""
    scores = torch.cat([score.flatten() for score in saliency.values()])
    kept = _keep(scores, ratio)
    parts = kept.split([score.numel() for score in saliency.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(saliency.items(), parts, strict=True)}


def choose_layerwise(saliency: Saliency, ratio: float) -> Masks:
    """Drop the `ratio` of the weights of every layer that matter least there."""
    return {name: _keep(score.flatten(), ratio).view(score.shape) for name, score in saliency.items()}


def _keep(scores: Tensor, ratio: float) -> Tensor:
    # By rank, not by threshold: equal scores must not change how many go. Stable, so that ties are settled alike.
    kept = torch.ones(len(scores), dtype=torch.bool)
    kept[scores.argsort(stable=True)[: round(ratio * len(scores))]] = False
    return kept


def apply(model: nn.Module, masks: Masks) -> None:
    """Zero the weights that the masks drop."""
    hold(model, masks)()


def hold(model: nn.Module, masks: Masks) -> Callable[[], None]:
    """A function that zeroes the dropped weights again: for after every optimiser step, which revives them."""
    parameters = dict(model.named_parameters())
    weights: list[Tensor] = [parameters[name] for name in masks]
    factors = [
        mask.to(device=weight.device).to(weight.dtype, memory_format=_format(weight))
        for mask, weight in zip(masks.values(), weights, strict=True)
    ]

    def zero_dropped() -> None:
        with torch.no_grad():
            for weight, factor in zip(weights, factors, strict=True):
                weight.mul_(factor)

    return zero_dropped


def _format(weight: Tensor) -> torch.memory_format:
    channels_last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def verify(model: nn.Module, masks: Masks) -> None:
    """Assert that every dropped weight is zero.

    Raises:
        AssertionError: naming the layer; this is a defect of the program, never of its input.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        revived = int(parameters[name].detach().cpu()[~mask.cpu()].count_nonzero())
        assert revived == 0, f"{revived} dropped weights of {name} are not zero"
