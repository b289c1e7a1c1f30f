"""Checks that need the network: that weights fit, patterns match and every cell can be met.

They import torch and make the network, which takes seconds.
"""

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from torch import nn

from prunelab.config.params import Params
from prunelab.core.errors import InputError
from prunelab.data.dataset import DataInfo
from prunelab.models.catalogue import Option, network_options
from prunelab.models.frozen import check_transfer, freeze, only_head_trained
from prunelab.models.networks import build, build_on_meta, find_head
from prunelab.models.weights import load_imagenet, load_weights
from prunelab.models.weights_packages import find_package
from prunelab.pruning import sensitivity
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import infeasible_specs


def check_weights(params: Params, data_info: DataInfo, path: Path) -> None:
    """Check that the weights of a file fit the network.

    Raises:
        InputError: if they do not.
    """
    options = network_options(params.model, params.weights, params.model_options)
    network = build(params.model, data_info.classes, data_info.shape, 0, **options)
    if find_package(params.weights, params.model) is not None:
        load_imagenet(network, params.model, path, by_order=True)
        return

    load_weights(
        *(network, params.model, path),
        options=params.weights_options,
        fresh_head=params.train.epochs > 0,
    )


def check_freeze(params: Params, data_info: DataInfo) -> None:
    """Check that the network can be built and that something is trained in every epoch.

    Raises:
        InputError: if not, or if a pattern matches nothing.
    """
    options = network_options(params.model, params.weights, params.model_options)
    network = build_on_meta(params.model, data_info.classes, data_info.shape, **options)
    freeze(network, params.train.freeze)

    check_transfer(params.train, params.weights)
    if params.train.freeze_epochs:
        with only_head_trained(network, find_head(params.model, network)):
            pass


def check_sensitivity(params: Params, data_info: DataInfo) -> None:
    """Check that one of `sensitivity.ratios` leaves some units of some layer, and takes some.

    Raises:
        InputError: if none does.
    """
    network = _network_to_trace(params, data_info)
    ratios = params.sensitivity.ratios

    for kind in sensitivity.METHODS:
        with suppress(InputError):  # the network has no such units
            units = sensitivity.prunable_units(network, params.model, kind, data_info.shape)
            if sensitivity.measurable(units, ratios):
                return
    raise InputError(
        f"sensitivity.ratios: {ratios} take none or all of every layer; valid: one that leaves some"
    )


def check_feasible(params: Params, data_info: DataInfo) -> None:
    """Check that every cell of the grid, and the focus, can be met on the network.

    Raises:
        InputError: with one line per reason why one cannot.
    """
    network = _network_to_trace(params, data_info)

    cells = [(method, ratio) for method, ratio, _ in params.grid.cells()]
    unique_cells = dict.fromkeys([*cells, (params.method, params.ratio)])  # in order
    specs = [params.spec(method, ratio) for method, ratio in unique_cells if method in METHODS]

    problems = infeasible_specs(
        network, params.model, specs, shape=data_info.shape, train=params.train
    )
    if problems:
        raise InputError(problems)


def _network_to_trace(params: Params, data_info: DataInfo) -> nn.Module:
    options = network_options(params.model, params.weights, params.model_options)
    return _built(params.model, data_info, tuple(options.items()))


@lru_cache(maxsize=1)
def _built(name: str, data_info: DataInfo, options: tuple[tuple[str, Option], ...]) -> nn.Module:
    """A network of the right architecture; kept, because most settings of a study share it."""
    return build(name, data_info.classes, data_info.shape, 0, **dict(options))
