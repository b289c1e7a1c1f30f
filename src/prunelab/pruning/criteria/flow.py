"""Criteria that need no data: what flows from the inputs to the outputs through the weights' magnitudes."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunelab.core.errors import InputError
from prunelab.models.catalogue import prunable_weights
from prunelab.pruning.criteria.calibration import CalibrationData, evaluating
from prunelab.pruning.unstructured.ranking import Saliency

# Inputs are all ones, scaled by a power of two, which costs no precision: so near to zero the slope of ReLU6, GELU and
# the like is constant, as that of ReLU is everywhere, and sums over 100 layers stay within the range of a float64.
TINY = 2.0**-300
GATED = 2.0**-100  # layers that flow passes through have shares of the order of one


def synflow(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """|w| dR/d|w| over R: the share of a network's synaptic flow R that passes through a weight (Tanaka et al. 2020).

    R is the sum, over all paths from an input to an output, of the product of the magnitudes on the path; it is had as
    the sum of the outputs to inputs of one, with biases and running means set to zero and every other parameter to its
    magnitude. Batch norms are in evaluation mode: they multiply by |gamma| over the running deviation. All in float64.
    The paper prunes in 100 small steps; at once, this is no better than other criteria at avoiding empty layers.

    Layers that only set gates, such as those of squeeze and excitation, are absent.

    Raises:
        InputError: if inputs are tokens, if the network is no sum of such products (layer norms subtract), or if no path
            is left.
    """
    example = evidence.example()
    if not example.is_floating_point():
        raise InputError(
            f"synflow: this network's inputs are {example.dtype} (tokens), which cannot be set to one; "
            "it needs inputs that are real numbers, such as images"
        )
    own = [*model.named_parameters(), *model.named_buffers()]
    tensors = {name: _linearised(name, tensor) for name, tensor in own}
    weights = {name: tensors[name].requires_grad_() for name in prunable_weights(model)}
    inputs = torch.full_like(example, TINY, dtype=torch.float64)
    with evaluating(model), torch.enable_grad():
        flow = functional_call(model, tensors, (inputs,)).sum()
        with torch.no_grad():
            doubled = functional_call(model, tensors, (2 * inputs,)).sum()
        found = torch.autograd.grad(flow, list(weights.values()), allow_unused=True)
    flow = flow.detach()
    shares = {
        name: (weight.detach() * gradient / flow).cpu()
        for (name, weight), gradient in zip(weights.items(), found, strict=True)
        if gradient is not None
    }
    # Of a gate (squeeze and excitation), which no flow passes through at inputs so small, this says nothing.
    saliency = {name: share for name, share in shares.items() if not 0 < share.sum() < GATED}
    if flow == 0:
        raise InputError("synflow: no path from an input to an output is left in this network")
    sums_of_products = torch.isclose(doubled, 2 * flow, rtol=1e-6, atol=0)
    if not sums_of_products or any(
        (share < 0).any() or not share.isfinite().all() for share in saliency.values()
    ):
        raise InputError(
            "synflow: this network's outputs are no sums of products of its weights along paths "
            "(layer norm and the like subtract); valid: convolutions, linear layers, batch norms, ReLU, pooling"
        )
    return saliency


def _linearised(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.detach()
    if name.endswith(("bias", "running_mean")):
        return torch.zeros_like(tensor, dtype=torch.float64)
    return tensor.detach().double().abs()
