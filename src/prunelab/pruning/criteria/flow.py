"""A criterion that needs no data: the synaptic flow from a network's inputs to its outputs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunelab.core.errors import InputError
from prunelab.models.networks import prunable_weights
from prunelab.pruning.criteria.calibration import CalibrationData, evaluating
from prunelab.pruning.unstructured.ranking import Saliency

# Inputs are all ones, scaled by this power of two, which costs no precision. So near to zero the
# slope of ReLU6, GELU and the like is constant, as that of ReLU is everywhere, and sums over 100
# layers stay within the range of a float64.
INPUT_SCALE = 2.0**-300

# The shares of a layer that flow passes through sum to the order of one. If they sum to less than
# this, the layer only sets gates (squeeze and excitation), of which synflow says nothing.
MIN_LAYER_SHARE = 2.0**-100


def synflow(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every weight by its share of the network's synaptic flow (SynFlow).

        score(w) = |w| dR/d|w| / R

    R is the sum, over all paths from an input to an output, of the product of the magnitudes |w|
    on the path. It is computed in float64 as the sum of the outputs to inputs of one, after setting
    biases and running means to zero and all other parameters to their magnitudes. Batch norms are
    in evaluation mode: they multiply by |gamma| over the running deviation.

    Scores lie in [0, 1]. 0 means that no path leads through the weight; 1 means that all flow
    passes through it. The scores of a layer of a plain chain sum to 1.

    Layers that only set gates, such as those of squeeze and excitation, are absent.

    Tanaka et al. 2020, Pruning neural networks without any data by iteratively conserving synaptic
    flow. The paper prunes in 100 small steps. In one step, SynFlow avoids empty layers no better
    than other criteria do.

    Raises:
        InputError: if the inputs are tokens, if the network is no sum of such products (layer norms
            subtract), or if no path is left.
    """
    example = calibration.example()
    if not example.is_floating_point():
        raise InputError(
            f"synflow does not support inputs of {example.dtype} (tokens): it sets every input to "
            "one. Use a network whose inputs are real numbers, such as images."
        )

    tensors = _linearised_tensors(model)
    first_names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = {}
    for name, weight in prunable_weights(model).items():
        if isinstance(weight, nn.Parameter):  # else it is computed from other parameters
            weights[name] = tensors[first_names[id(weight)]].requires_grad_()
    inputs = torch.full_like(example, INPUT_SCALE, dtype=torch.float64)

    with evaluating(model), torch.enable_grad():
        flow = functional_call(model, tensors, (inputs,)).sum()
        with torch.no_grad():
            doubled_flow = functional_call(model, tensors, (2 * inputs,)).sum()
        gradients = torch.autograd.grad(flow, list(weights.values()), allow_unused=True)
    flow = flow.detach()

    saliency: Saliency = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        if gradient is None:
            continue
        shares = (weight.detach() * gradient / flow).cpu()
        if not 0 < shares.sum() < MIN_LAYER_SHARE:
            saliency[name] = shares

    _check_sum_of_products(flow, doubled_flow, saliency)
    return saliency


def _linearised_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers, changed so that its outputs are sums over paths."""
    tensors: dict[str, Tensor] = {}

    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            tensors[name] = tensor.detach()
        elif name.endswith(("bias", "running_mean")):
            tensors[name] = torch.zeros_like(tensor, dtype=torch.float64)
        else:
            tensors[name] = tensor.detach().double().abs()

    return tensors


def _check_sum_of_products(
    flow: Tensor, doubled_flow: Tensor, saliency: Mapping[str, Tensor]
) -> None:
    """Raise InputError unless the flow is a sum of products of magnitudes.

    Such a sum is positive, and it doubles as the inputs do. Shares of it are neither negative nor
    infinite.
    """
    if flow == 0:
        raise InputError(
            "synflow cannot score this network: no path of non-zero weights is left from an input "
            "to an output. Use a lower ratio or another network."
        )

    doubles = torch.isclose(doubled_flow, 2 * flow, rtol=1e-6, atol=0)
    shares_are_valid = all(
        bool((shares >= 0).all() and shares.isfinite().all()) for shares in saliency.values()
    )
    if not (doubles and shares_are_valid):
        raise InputError(
            "synflow does not support this network. Supported layers: convolution, linear, batch "
            "norm, ReLU, pooling. Layer norm is not supported."
        )
