"""Criteria that ask how the loss depends on the weights.

The loss is cross-entropy on training examples, unless the calibration data bring another. A weight
that the loss does not depend on has no gradient, so the layer of such weights is absent.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from prunelab.core.errors import InputError
from prunelab.models.networks import prunable_weights
from prunelab.pruning.criteria.calibration import CalibrationData, distribute_evenly, evaluating
from prunelab.pruning.unstructured.ranking import Saliency

GRASP_TEMPERATURE = 200.0  # divides the logits (Wang et al. 2020)

Network = Callable[[Tensor], Tensor]  # from inputs [B, ...] to logits [B, classes]
Loss = Callable[[Tensor, Tensor], Tensor]  # from inputs [B, ...] and labels [B] to a scalar


def taylor(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every weight by how much its removal changes the loss, to first order.

        score(w) = |w g|, with g the gradient of the mean loss

    A high score means that removing the weight changes the loss much, in either direction; 0 means
    that it changes nothing to first order. Scores compare across layers.

    Molchanov et al. 2019, Importance Estimation for Neural Network Pruning. The paper squares the
    product, which ranks alike. `taylor_filter` is the paper's score of whole filters.
    """
    return _weight_times_gradient(model, calibration, batch_statistics=False)


def taylor_filter(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every filter by the squared change of the loss that its removal causes.

        score(F) = mean over batches of (sum over w in F of w g)^2

    g is the gradient of the mean loss of one batch. A high score means that removing the whole
    filter changes the loss much, in either direction; 0 means that it changes nothing to first
    order. Scores compare across layers. The score is distributed evenly over the weights of the
    filter.

    Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, equation 9.
    """
    totals: dict[str, Tensor] = {}
    batch_count = 0

    with _differentiable(model) as (weights, network):
        for inputs, labels in calibration.batches():
            batch_count += 1
            loss = calibration.mean_loss(network(inputs), labels)

            for name, gradient in _gradients(loss, weights).items():
                products = weights[name].detach() * gradient
                score = products.flatten(1).sum(1, dtype=torch.float64).square()
                if name in totals:
                    totals[name] = totals[name] + score
                else:
                    totals[name] = score

    saliency: Saliency = {}
    for name, total in totals.items():
        saliency[name] = distribute_evenly(total / batch_count, weights[name])

    return saliency


def fisher(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every weight by how much its removal raises the loss, to second order.

        score(w) = 1/2 w^2 * mean over examples of g^2, with g the gradient of one example's loss

    This is optimal brain damage with the diagonal of the empirical Fisher matrix in place of that
    of the Hessian. A high score means that the loss rises much without the weight; 0 means that it
    does not. Scores compare across layers.

    The gradients are those of single examples, one after the other. The square of a batch's mean
    gradient is a different quantity, and close to zero near a minimum.

    LeCun et al. 1990, Optimal Brain Damage. For the Fisher matrix: Theis et al. 2018, Faster gaze
    prediction with dense networks and Fisher pruning.
    """
    squares: dict[str, Tensor] = {}
    example_count = 0

    with _differentiable(model) as (weights, network):
        for inputs, labels in calibration.batches():
            for example, label in zip(torch.split(inputs, 1), torch.split(labels, 1), strict=True):
                example_count += 1
                loss = calibration.mean_loss(network(example), label)

                for name, gradient in _gradients(loss, weights).items():
                    total = squares.setdefault(name, torch.zeros_like(gradient))
                    total.addcmul_(gradient, gradient)

    saliency: Saliency = {}
    for name, total in squares.items():
        saliency[name] = (0.5 * weights[name].detach().square() * total / example_count).cpu()

    return saliency


def snip(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every weight by its share of the loss's sensitivity to connections (SNIP).

        score(w) = |w g| / sum over all weights v of the network of |v g_v|

    w g is the gradient of the mean loss by a mask over the weight. Scores lie in [0, 1] and sum to
    1 over the network. 0 means that the loss does not react to the connection; 1 means that it
    reacts to no other.

    The criterion is meant for networks at initialisation, whose running statistics say nothing.
    Batch norms therefore use the statistics of the batch, as in the paper. In this alone the
    ranking differs from that of `taylor`.

    Lee et al. 2019, SNIP: Single-shot Network Pruning based on Connection Sensitivity.
    """
    products = _weight_times_gradient(model, calibration, batch_statistics=True)
    total = sum(product.sum(dtype=torch.float64) for product in products.values())
    if not total:
        return products

    saliency: Saliency = {}
    for name, product in products.items():
        saliency[name] = (product / total).to(product.dtype)

    return saliency


def grasp(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every weight by how much of the gradient's squared norm would go with it (GraSP).

        score(w) = w (H g)_w

    g is the gradient and H the Hessian of the mean loss, with logits divided by 200. A high score
    means that the gradient flow shrinks without the weight. Scores may be negative: then the flow
    grows without it. 0 means no change to first order. Batch norms use the statistics of the batch,
    as for `snip`.

    The paper scores removal by -w H g and removes the highest scores. This is its negative, so that
    a higher score is more worth keeping.

    Wang et al. 2020, Picking Winning Tickets Before Training by Preserving Gradient Flow.
    """
    with (
        _TwiceDifferentiable(),
        _differentiable(model, batch_statistics=True) as (weights, network),
    ):

        def summed_loss(inputs: Tensor, labels: Tensor) -> Tensor:
            logits = network(inputs) / GRASP_TEMPERATURE
            return calibration.summed_loss(logits, labels)

        gradient, example_count = _summed_gradient(summed_loss, weights, calibration)
        used_weights = {name: weights[name] for name in gradient}
        products = {name: torch.zeros_like(weight) for name, weight in used_weights.items()}

        # The gradient of (g(w) . g), with the second g held constant, is H g.
        for inputs, labels in calibration.batches():
            loss = summed_loss(inputs, labels)
            batch_gradient = _gradients(loss, used_weights, create_graph=True)

            terms: list[Tensor] = []
            for name, part in batch_gradient.items():
                terms.append((part * gradient[name] / example_count).sum())
            scalar_product = torch.stack(terms).sum()

            for name, part in _gradients(scalar_product, used_weights).items():
                products[name] += part

    saliency: Saliency = {}
    for name, product in products.items():
        saliency[name] = (weights[name].detach() * product / example_count).cpu()

    return saliency


class _TwiceDifferentiable(TorchFunctionMode):
    """Writes out the activations for which torch has no second derivative."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        if func is F.hardswish:
            return args[0] * (F.relu6(args[0] + 3) / 6)

        return func(*args, **(kwargs or {}))


def _weight_times_gradient(
    model: nn.Module, calibration: CalibrationData, *, batch_statistics: bool
) -> Saliency:
    """|w g| for every weight, with g the gradient of the mean loss over all examples."""
    with _differentiable(model, batch_statistics=batch_statistics) as (weights, network):

        def summed_loss(inputs: Tensor, labels: Tensor) -> Tensor:
            return calibration.summed_loss(network(inputs), labels)

        gradient, example_count = _summed_gradient(summed_loss, weights, calibration)

    saliency: Saliency = {}
    for name, total in gradient.items():
        saliency[name] = (weights[name].detach() * total / example_count).abs().cpu()

    return saliency


def _summed_gradient(
    summed_loss: Loss, weights: Mapping[str, Tensor], calibration: CalibrationData
) -> tuple[dict[str, Tensor], int]:
    """The gradient of a loss that sums over examples, summed over all batches.

    Returns:
        The gradient, by the name of the weight, and the number of examples.
    """
    totals: dict[str, Tensor] = {}
    example_count = 0

    for inputs, labels in calibration.batches():
        example_count += len(labels)
        loss = summed_loss(inputs, labels)

        for name, gradient in _gradients(loss, weights).items():
            if name in totals:
                totals[name].add_(gradient)
            else:
                totals[name] = gradient.clone()

    return totals, example_count


def _gradients(
    loss: Tensor, weights: Mapping[str, Tensor], *, create_graph: bool = False
) -> dict[str, Tensor]:
    """The gradient of the loss by every weight that it depends on.

    Raises:
        InputError: if it depends on none, as the number of errors.
    """
    if not loss.requires_grad:
        raise InputError(
            "the loss has no gradient by any weight: the network or the loss cuts it off (by "
            "no_grad, detach or argmax). Use a loss with a gradient or another criterion"
        )
    gradients = torch.autograd.grad(
        loss, list(weights.values()), create_graph=create_graph, allow_unused=True
    )

    used: dict[str, Tensor] = {}
    for name, gradient in zip(weights, gradients, strict=True):
        if gradient is not None:
            used[name] = gradient

    return used


@contextmanager
def _differentiable(
    model: nn.Module, *, batch_statistics: bool = False
) -> Iterator[tuple[dict[str, Tensor], Network]]:
    """Yield stand-ins for the prunable weights, and the network as a function that uses them.

    The stand-ins share their values with the weights and record gradients. The model's own tensors
    see no gradient, and its norms update copies of their statistics.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    weights: dict[str, Tensor] = {}
    for name, weight in prunable_weights(model).items():
        if isinstance(weight, nn.Parameter):  # else it is computed from other parameters
            weights[name] = weight.detach().requires_grad_()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def network(inputs: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, {**weights, **buffers}, (inputs,))
        return logits

    # The plain form of attention is deterministic and can be differentiated twice.
    with (
        evaluating(model, batch_statistics=batch_statistics),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        yield weights, network
