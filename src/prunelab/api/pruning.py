"""prunelab.prune: prune any network that maps one tensor to one tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

from torch import Tensor, nn

from prunelab.api.inputs import (
    Data,
    Network,
    batches_of,
    card_of,
    check_batch_statistics,
    check_loss,
    check_training_mode,
    copy_of,
    device_of,
    example_of,
    masks_of,
    module_of,
    require_batches,
    structure_of,
)
from prunelab.api.result import Card, PrunedLayer, PrunedNetwork
from prunelab.api.training import ScriptTraining, TrainFunction
from prunelab.artifacts.modules import ModuleCard
from prunelab.artifacts.networks import ModelCard
from prunelab.config.params import Budget, PruneSpec
from prunelab.config.problems import validate
from prunelab.config.restart import Restart
from prunelab.core.errors import InputError
from prunelab.core.registry import pick
from prunelab.core.text import name_list
from prunelab.evaluation.layers import by_layer
from prunelab.models.cost import cost_at, parameters
from prunelab.models.frozen import within
from prunelab.models.networks import example_input
from prunelab.models.resize import Widths, adopt, changed_widths
from prunelab.models.structure import Structure
from prunelab.pruning.criteria import LossFunction
from prunelab.pruning.methods import BATCH_STATISTICS_CRITERIA, METHODS, Method
from prunelab.pruning.prune import check_feasible, prune_network
from prunelab.pruning.pruner import PruneResult
from prunelab.pruning.unstructured.granularity import GRANULARITIES


class PruneSettings(TypedDict, total=False):
    """Settings of methods, which ignore those that do not concern them.

    They are the keys of the section `prune` of params.yaml; `DEFAULTS` has their defaults.

    Args:
        protect: layers left alone, with the wildcards of a shell, such as "layer1.*"
        layer_ratios: the share, 0 to below 1, that layers lose whatever the others lose, by name
            or wildcards
        round_to: widths that are left are multiples of this
        floor: the least share of its channels that a layer keeps when layers compete, 0 to below 1
        group: the M of N:M methods; `ratio` gives the N
        block_rows: outputs of a block of block methods
        block_columns: input weights of a block of block methods
        patterns: how many patterns pattern methods choose from
        samples: how many examples of `data` a criterion sees
        recalibrate: on how many examples of `data` batch norms are measured again; 0: on none
        iterations: rounds of iterative methods
        epochs: epochs of training within a method, per round for iterative methods
        penalty: strength of the regulariser of sparse training
    """

    protect: Sequence[str]
    layer_ratios: Mapping[str, float]
    round_to: int
    floor: float
    group: int
    block_rows: int
    block_columns: int
    patterns: int
    samples: int
    recalibrate: int
    iterations: int
    epochs: int
    penalty: float


DEFAULTS = PruneSettings(
    protect=(),
    layer_ratios={},
    round_to=1,
    floor=0.1,
    group=4,
    block_rows=4,
    block_columns=4,
    patterns=8,
    samples=512,
    recalibrate=0,
    iterations=4,
    epochs=2,
    penalty=1e-4,
)


def prune(  # noqa: PLR0913 (a keyword for each thing to say)
    model: Network,
    example_inputs: Tensor | None = None,
    method: str = "l1_channel",
    ratio: float = 0.5,
    budget: Budget = "macs",
    *,
    data: Data | None = None,
    loss: LossFunction | None = None,
    train: TrainFunction | None = None,
    inplace: bool = False,
    seed: int = 0,
    **settings: Unpack[PruneSettings],
) -> PrunedNetwork:
    """Prune a network, by copy unless `inplace`. The same arguments give the same result.

    The layers that make the network's outputs keep them. Whatever is raised, `model` is as it was.

    Args:
        model: any module that maps one tensor to one tensor, or what `load` returned
        example_inputs: one input or more, [B, ...], of the shape and type that the network takes.
            Only what `load` returned for a network of prunelab needs none
        method: a name that `prunelab list` shows, a criterion with what it removes
        ratio: the share to remove of what `budget` names, from 0 to below 1. The nearest that whole
            units allow is removed; `ratio_achieved` of the result says how much that is
        budget: "macs" or "params" of the whole network (for mask methods those that are not zero),
            or "native": channels, or weights for mask methods, of the layers pruned
        data: batches (inputs [B, ...], targets [B, ...]), such as a DataLoader, for criteria that
            need examples; the first `samples` examples are used
        loss: the mean loss of a batch from outputs and targets, for criteria that need gradients;
            cross-entropy if it is not given
        train: trains a network in place for one epoch, called as `train(network)`, for methods
            that train in between. It must make a new optimizer each time, as widths change
        inplace: whether `model` itself is pruned. Its parameters stay the same objects, but an
            optimizer's state does not fit them any more
        seed: seeds the random choices of random methods
        settings: see `PruneSettings`

    Returns:
        The pruned network and what went; printing it shows every layer.

    Raises:
        InputError: if an argument is wrong, if the method cannot be applied to the network, if
            nothing of it can go, or if the ratio cannot be met.

    Sources: `prunelab list` and the docstrings in `prunelab.pruning.criteria` name the papers.
    """
    network = module_of(model)
    spec = _spec(method, ratio, budget, settings)
    job = _Job(network, spec, _example(model, network, example_inputs), card_of(model))
    training = job.training(data, loss, train)
    earlier_masks = masks_of(model)
    if earlier_masks and METHODS[method].trains:
        raise InputError(
            f"{method} trains, and the masks of the network's earlier pruning would not hold "
            "meanwhile. Use this method first, and the one with masks after it"
        )

    # Groups are found on the CPU, where also the copy is pruned.
    pruned = copy_of(network).cpu()
    structure = job.structure(pruned)
    if METHODS[method].trains:
        check_feasible(pruned, structure, spec, nearest=True)
    result = prune_network(pruned, structure, spec, seed=seed, retrainer=training, nearest=True)
    if result.widths:
        check_training_mode(network, pruned, job.example)

    pruned.to(device_of(network))
    _match_modes(pruned, network)
    found = job.result(pruned, result, structure)
    found = replace(found, masks=_with_earlier(found.masks, earlier_masks, pruned))
    if not inplace:
        return found

    adopt(network, pruned)
    return replace(found, model=network)


def _with_earlier(
    masks: Mapping[str, Tensor], earlier: Mapping[str, Tensor], pruned: nn.Module
) -> dict[str, Tensor]:
    """The masks of a pruning, on the CPU, with what the network's earlier masks had zeroed.

    Those weights are known by their value, since channels may have gone from around them.
    """
    weights = dict(pruned.named_parameters(remove_duplicate=False))
    together = dict(masks)
    for name in earlier:
        kept = weights[name].detach().cpu() != 0
        together[name] = kept & masks.get(name, kept)
    return together


def _match_modes(pruned: nn.Module, dense: nn.Module) -> None:
    """Give layers the modes, and parameters the need of a gradient, that the dense network has."""
    for name, layer in dense.named_modules():
        pruned.get_submodule(name).training = layer.training
    for name, parameter in dense.named_parameters():
        pruned.get_parameter(name).requires_grad_(parameter.requires_grad)


@dataclass(frozen=True)
class _Job:
    """A dense network with what is asked of it. `card` is that of the file it came from, if any."""

    dense: nn.Module
    spec: PruneSpec
    example: Tensor
    card: Card | None

    def structure(self, model: nn.Module) -> Structure:
        return structure_of(self.card, model, self.example)

    def training(
        self, data: Data | None, loss: LossFunction | None, train: TrainFunction | None
    ) -> ScriptTraining:
        """What the method may use; raises InputError if it needs more."""
        method = METHODS[self.spec.method]
        _check_training(self.spec.method, method, train)

        needed = self.spec.recalibrate
        if method.needs_data:
            needed = max(needed, self.spec.samples)
        if data is None and needed:
            raise InputError(_why_data(self.spec, method))

        batches: list[tuple[Tensor, Tensor]] = []
        if data is not None and needed:
            batches = list(batches_of(require_batches(data), needed))
            check_loss(self.dense, batches[0], loss or nn.functional.cross_entropy)
            if self.spec.recalibrate or method.criterion in BATCH_STATISTICS_CRITERIA:
                check_batch_statistics(self.dense, batches)
        return ScriptTraining(device_of(self.dense), self.example, batches, train, loss)

    def result(self, pruned: nn.Module, result: PruneResult, structure: Structure) -> PrunedNetwork:
        cost = cost_at(pruned, self.dense, self.example)
        layers = []
        for name, row in by_layer(pruned, self.dense).items():
            layer = PrunedLayer(
                name=name,
                width_before=int(row["width_dense"]),
                width=int(row["width"]),
                weights_before=int(row["weights_dense"]),
                weights=int(row["weights"]),
                weights_nonzero=int(row["weights_nonzero"]),
            )
            layers.append(_explained(layer, self.spec, result, structure))

        return PrunedNetwork(
            model=pruned,
            spec=self.spec,
            ratio_achieved=result.ratio_achieved,
            layers=layers,
            params_before=parameters(self.dense),
            params=int(cost["params"]),
            params_nonzero=int(cost["params_nonzero"]),
            macs_before=round(cost["macs"] * cost["macs_ratio"]),
            macs=int(cost["macs"]),
            macs_nonzero=int(cost["macs_nonzero"]),
            masks=result.masks,
            rounds=result.rounds,
            card=self._new_card(pruned, result),
        )

    def _new_card(self, pruned: nn.Module, result: PruneResult) -> Card:
        if isinstance(self.card, ModelCard):
            return self.card.model_copy(
                update={
                    "pruning": self.spec,
                    "ratio_achieved": result.ratio_achieved,
                    "train_macs": self.card.train_macs + result.train_macs,
                }
            )

        widths: Widths = {}
        if self.card is not None:
            widths |= self.card.widths
        for name, numbers in changed_widths(self.dense, pruned).items():
            widths[name] = widths.get(name, {}) | numbers
        return ModuleCard(
            module=type(self.dense).__name__,
            input_shape=tuple(self.example.shape[1:]),
            input_dtype=str(self.example.dtype).removeprefix("torch."),
            widths=widths,
            classes=self.card and self.card.classes,
            normalise=self.card and self.card.normalise,
            pruning=self.spec,
            ratio_achieved=result.ratio_achieved,
        )


def _spec(method: str, ratio: float, budget: str, settings: PruneSettings) -> PruneSpec:
    pick(METHODS, method, "method")
    content: dict[str, object] = {**DEFAULTS, **settings}
    protect, layer_ratios = content["protect"], content["layer_ratios"]
    if isinstance(protect, str):
        raise InputError(f"protect must be a list of layers, such as [{protect!r}]")
    if isinstance(protect, tuple):
        content["protect"] = list(protect)
    if isinstance(layer_ratios, Mapping):
        content["layer_ratios"] = dict(layer_ratios)
    return validate(PruneSpec, content | {"method": method, "ratio": ratio, "budget": budget})


def _example(model: Network, network: nn.Module, example_inputs: Tensor | None) -> Tensor:
    card = card_of(model)
    if example_inputs is None and isinstance(card, ModelCard):
        return example_input(card.input_shape)
    if example_inputs is None and isinstance(card, ModuleCard):
        return card.example()
    return example_of(network, example_inputs)


def _check_training(name: str, method: Method, train: TrainFunction | None) -> None:
    """Raise InputError if the method needs training that a script cannot give, or does not."""
    usable = name_list(list(_without_training(method)))

    if method.restart is not Restart.NONE:
        raise InputError(
            f"{name} repeats the training of the dense network, which `prunelab repro` does; "
            f"here these work: {usable}"
        )

    if method.trains and train is None:
        raise InputError(
            f"{name} trains in between: pass train=, a function that trains a network for one "
            f"epoch. These work without: {usable}"
        )


def _without_training(method: Method) -> dict[str, Method]:
    """The methods, by name, that remove what this one removes and train nothing."""
    usable = {}
    for name, entry in METHODS.items():
        fits = entry.granularity == method.granularity and entry.restart is Restart.NONE
        if fits and not entry.trains:
            usable[name] = entry
    return usable


def _why_data(spec: PruneSpec, method: Method) -> str:
    if not method.needs_data:
        return (
            f"recalibrate = {spec.recalibrate} needs examples: pass data=, batches "
            "(inputs, targets) such as a DataLoader"
        )

    others = _without_training(method)
    usable = [name for name, entry in others.items() if not entry.needs_data]
    return (
        f"{spec.method} scores weights by examples: pass data=, batches (inputs, targets) such as "
        f"a DataLoader. These work without: {name_list(usable)}"
    )


def _explained(
    layer: PrunedLayer, spec: PruneSpec, result: PruneResult, structure: Structure
) -> PrunedLayer:
    """The layer with the reason why it kept all outputs, or with masks all weights."""
    kept = layer.width == layer.width_before
    if METHODS[spec.method].masks:
        kept = layer.weights_nonzero == layer.weights_before
    if not kept:
        return layer
    return replace(layer, kept_because=_reason(layer, spec, result, structure))


def _reason(layer: PrunedLayer, spec: PruneSpec, result: PruneResult, structure: Structure) -> str:
    method = METHODS[spec.method]
    is_mask_method = method.masks and method.granularity != "filter"
    if layer.name in structure.outputs and not is_mask_method:
        return "it makes the network's outputs"
    if any(within(layer.name, pattern) for pattern in spec.protect):
        return "protect names it"
    if spec.ratio == 0:
        return "the ratio is 0"
    if layer.name in structure.fixed and not is_mask_method:
        return "the network adds its outputs to others of fixed width"

    if method.masks and layer.name not in {name.removesuffix(".weight") for name in result.masks}:
        noun = GRANULARITIES[method.granularity].noun
        return f"it has no {noun}, or the criterion does not score it"
    if method.masks:
        return "its weights rank above those that went"
    # torch's attention has no layer of its own for queries, keys and values.
    name = layer.name.removesuffix(".in_proj_weight")
    for width in result.widths:
        if name in width.layers and method.scope == "uniform":
            return f"the share to go is nearest to none of {width.before} by round_to"
        if name in width.layers:
            return "its units rank above those that went"
    for kept in result.kept:
        if name in kept.layers:
            return kept.reason
    return "none of its outputs can go alone, or the criterion scores none"
