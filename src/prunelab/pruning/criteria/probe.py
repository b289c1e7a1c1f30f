"""Whether a criterion of a plugin keeps the rules of `CRITERIA`, tried on a small network."""

import torch
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.models.networks import build, prunable_weights
from prunelab.pruning.criteria import CRITERIA
from prunelab.pruning.criteria.calibration import CalibrationData

EXAMPLES = 8
SHAPE = (1, 8, 8)
CLASSES = 10


def check_criterion(name: str) -> None:
    """Score a small residual network by a criterion that a plugin registers.

    Raises:
        InputError: one line, with the plugin's file and line, for the first rule that it breaks.
    """
    origin = CRITERIA.origin(name)
    if origin is None:
        return

    model = build("resnet8", CLASSES, SHAPE)
    weights = prunable_weights(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    problem = _problem(CRITERIA[name](model, _calibration()), weights)
    if not problem and _has_changed(model, before):
        problem = "changes the network; work on copies of its tensors"
    if problem:
        raise InputError(f"{origin.place}: criterion {name} {problem}")


def _calibration() -> CalibrationData:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES, *SHAPE, generator=generator)
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    return CalibrationData(generator, lambda: [(inputs.clone(), labels.clone())])


def _problem(saliency: object, weights: dict[str, Tensor]) -> str:
    """The first rule that a saliency breaks; empty if it keeps all of them."""
    if not isinstance(saliency, dict):
        return f"returns a {type(saliency).__name__}; return a dict of scores by name of weight"
    if not saliency:
        return "scores no layer; return scores by the names of prunable_weights(model)"

    for key, scores in saliency.items():
        if key not in weights:
            return f"scores {key!r}, which is no prunable weight; use prunable_weights(model)"
        if not isinstance(scores, Tensor) or scores.shape != weights[key].shape:
            shape = tuple(getattr(scores, "shape", ()))
            return f"scores {key} in shape {shape}; return {tuple(weights[key].shape)}"
        if scores.requires_grad or scores.device.type != "cpu":
            return f"returns scores of {key} with a gradient or on a device; detach() and cpu()"
        if not scores.isfinite().all():
            return f"scores {key} by numbers that are not finite"
    return ""


def _has_changed(model: nn.Module, before: dict[str, Tensor]) -> bool:
    state = model.state_dict()
    return any(not torch.equal(state[key], value) for key, value in before.items())
