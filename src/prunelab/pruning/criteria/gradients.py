"""Criteria that ask how the loss, cross-entropy on training examples, depends on the weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from prunelab.models.catalogue import prunable_weights
from prunelab.pruning.criteria.calibration import CalibrationData, distribute_evenly, evaluating
from prunelab.pruning.unstructured.ranking import Saliency

GRASP_TEMPERATURE = 200.0
Network = Callable[[Tensor], Tensor]


def taylor(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """|w g|, g the gradient of the mean loss: how much a weight's removal changes it, to first order.

    The order is that of Molchanov et al. (2019), who square it; `taylor_filter` is their score of whole filters.
    """
    return _weight_times_gradient(model, evidence, batch_statistics=False)


def taylor_filter(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """(sum over a filter of w g) squared, averaged over the batches (Molchanov et al. 2019, equation 9)."""
    totals: dict[str, Tensor] = {}
    count = 0
    with _differentiable(model) as (weights, network):
        for inputs, labels in evidence.batches():
            count += 1
            for name, gradient in _gradients(
                F.cross_entropy(network(inputs), labels), weights
            ).items():
                score = (
                    (weights[name].detach() * gradient)
                    .flatten(1)
                    .sum(1, dtype=torch.float64)
                    .square()
                )
                totals[name] = totals[name] + score if name in totals else score
    return {name: distribute_evenly(total / count, weights[name]) for name, total in totals.items()}


def fisher(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """Half of w squared times the mean over examples of the squared gradient.

    Optimal brain damage (LeCun et al. 1990) with the diagonal of the empirical Fisher matrix for that of the Hessian
    (Theis et al. 2018). Gradients are of single examples, one after the other: the square of a batch's mean gradient
    is another thing, and near a minimum almost nothing.
    """
    squares: dict[str, Tensor] = {}
    count = 0
    with _differentiable(model) as (weights, network):
        for inputs, labels in evidence.batches():
            for one, label in zip(inputs.split(1), labels.split(1), strict=True):
                count += 1
                for name, gradient in _gradients(
                    F.cross_entropy(network(one), label), weights
                ).items():
                    squares.setdefault(name, torch.zeros_like(gradient)).addcmul_(
                        gradient, gradient
                    )
    return {
        name: (
            0.5 * weights[name].detach().square() * square / count
        ).cpu()  # one product of the weight's size
        for name, square in squares.items()
    }


def snip(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """|w g| as a share of its sum over the network: the loss's sensitivity to a connection (Lee et al. 2019).

    The loss's gradient by a mask over the weights is w g. Meant for networks at initialisation, whose running
    statistics say nothing: batch norms use those of the batch, as in the paper, which is what differs from `taylor`.
    """
    products = _weight_times_gradient(model, evidence, batch_statistics=True)
    total = sum(product.sum(dtype=torch.float64) for product in products.values())
    return {
        name: (product / total).to(product.dtype) if total else product
        for name, product in products.items()
    }


def grasp(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """w times H g: how much of the gradient's squared norm would go with a weight (Wang et al. 2020).

    H is the loss's Hessian, with logits divided by 200. The paper scores removal, -w H g, and removes where that is
    highest; this is its negative, so that what stays is what gradient flow rests on. It may be negative. Batch norms
    use the statistics of the batch, as for `snip`.
    """

    def loss(network: Network, inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(network(inputs) / GRASP_TEMPERATURE, labels, reduction="sum")

    with (
        _TwiceDifferentiable(),
        _differentiable(model, batch_statistics=True) as (weights, network),
    ):
        gradient, count = _summed_gradient(lambda *batch: loss(network, *batch), weights, evidence)
        known = {name: weights[name] for name in gradient}
        products = {name: torch.zeros_like(weight) for name, weight in known.items()}
        for inputs, labels in evidence.batches():
            parts = _gradients(loss(network, inputs, labels), known, create_graph=True)
            aligned = torch.stack(
                [(part * gradient[name] / count).sum() for name, part in parts.items()]
            ).sum()
            for name, part in _gradients(aligned, known).items():
                products[name] += part
    return {
        name: (weights[name].detach() * product / count).cpu() for name, product in products.items()
    }


class _TwiceDifferentiable(TorchFunctionMode):
    """Writes out the activations of which torch knows no second derivative."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.hardsigmoid, F.hardswish):
            gate = F.relu6(args[0] + 3) / 6
            return gate if func is F.hardsigmoid else args[0] * gate
        return func(*args, **(kwargs or {}))


def _weight_times_gradient(
    model: nn.Module, evidence: CalibrationData, *, batch_statistics: bool
) -> Saliency:
    with _differentiable(model, batch_statistics=batch_statistics) as (weights, network):
        gradient, count = _summed_gradient(
            lambda inputs, labels: F.cross_entropy(network(inputs), labels, reduction="sum"),
            weights,
            evidence,
        )
    return {
        name: (weights[name].detach() * total / count).abs().cpu()
        for name, total in gradient.items()
    }


def _summed_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], weights: dict[str, Tensor], evidence: CalibrationData
) -> tuple[dict[str, Tensor], int]:
    """The gradient of a loss that sums over examples, summed over all batches, and the number of examples."""
    totals: dict[str, Tensor] = {}
    count = 0
    for inputs, labels in evidence.batches():
        count += len(labels)
        for name, gradient in _gradients(loss(inputs, labels), weights).items():
            totals[name] = totals[name].add_(gradient) if name in totals else gradient.clone()
    return totals, count


def _gradients(
    loss: Tensor, weights: dict[str, Tensor], *, create_graph: bool = False
) -> dict[str, Tensor]:
    """The gradient by every weight that the loss depends on."""
    found = torch.autograd.grad(
        loss, list(weights.values()), create_graph=create_graph, allow_unused=True
    )
    return {
        name: gradient
        for name, gradient in zip(weights, found, strict=True)
        if gradient is not None
    }


@contextmanager
def _differentiable(
    model: nn.Module, *, batch_statistics: bool = False
) -> Iterator[tuple[dict[str, Tensor], Network]]:
    """Leaves that stand in for the prunable weights, and the network as a function of its inputs that uses them.

    The model's own tensors see no gradient, and its norms update copies of their statistics.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    weights = {
        name: weight.detach().requires_grad_() for name, weight in prunable_weights(model).items()
    }
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # The plain form of attention is the one that is deterministic and can be differentiated twice.
    with (
        evaluating(model, batch_statistics=batch_statistics),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        yield weights, lambda inputs: functional_call(model, {**weights, **buffers}, (inputs,))
