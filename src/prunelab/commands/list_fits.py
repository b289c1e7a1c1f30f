"""Which methods fit the network of params.yaml. It makes the network, which takes torch."""

from collections.abc import Mapping

from prunelab.commands.check.inputs import data_info_of
from prunelab.config.params import load_params
from prunelab.core.errors import InputError
from prunelab.models.catalogue import network_options
from prunelab.models.networks import build
from prunelab.models.structure import registered_structure
from prunelab.pruning.methods import METHODS, Kind
from prunelab.pruning.prune import check_feasible, check_parts
from prunelab.pruning.structured.groups import FoundGroups


def misfits() -> Mapping[str, list[str]]:
    """The reasons why methods cannot prune the network of params.yaml, with these methods.

    The ratio and the budget are those of params.yaml.

    Raises:
        InputError: if the network cannot be made.
    """
    params = load_params()
    data_info = data_info_of(params)
    options = network_options(params.model, params.weights, params.model_options)
    network = build(params.model, data_info.classes, data_info.shape, 0, **options).eval()
    structure = registered_structure(params.model, network, data_info.shape)

    known_groups: dict[Kind, FoundGroups] = {}
    by_reason: dict[str, list[str]] = {}
    for name in METHODS:
        try:
            check_parts(name)
            check_feasible(network, structure, params.spec(name, params.ratio), known_groups)
        except InputError as error:
            reason = error.problems[0].removeprefix(f"{name}: ").partition(";")[0]
            by_reason.setdefault(reason, []).append(name)
    return by_reason
