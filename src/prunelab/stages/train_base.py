"""Train the dense network once per seed; every method starts from these weights."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from prunelab.artifacts.networks import (
    GREY_BITS,
    ModelCard,
    Network,
    plugins_of,
    save_network,
    seed_file,
)
from prunelab.artifacts.prepared import read_data_info
from prunelab.config.params import MIN_DEVIATION, Normalise, Params, load_params
from prunelab.core.files import sha256, write_json
from prunelab.models.catalogue import network_options
from prunelab.models.frozen import check_transfer, freeze
from prunelab.models.networks import build, find_head
from prunelab.models.probe import check_network
from prunelab.models.weights import load_imagenet, load_weights
from prunelab.models.weights_packages import (
    IMAGENET,
    IMAGENET_MEAN,
    IMAGENET_STD,
    find_package,
)
from prunelab.models.weights_source import check_options, weights_file
from prunelab.runtime.device import configure
from prunelab.runtime.distributed import join
from prunelab.runtime.seeds import for_each_seed
from prunelab.stages.entry import run
from prunelab.stages.task import distributed, history_rows, load_trainer
from prunelab.training.checkpoints import CheckpointFolder, checkpoints_for
from prunelab.training.trainer import Trainer, TrainResult


def main(prepared: Path, out: Path, history: Path) -> None:
    """Train on the folder PREPARED.

    Writes OUT/init, OUT/rewind and OUT/final, and a row per epoch to HISTORY.
    """
    params = load_params()
    execution = configure(params.runtime)
    processes = join(execution)

    data_info = read_data_info(prepared)
    normalise = _normalise(params, data_info)
    check_options(params.weights, params.model, params.weights_options)
    check_transfer(params.train, params.weights)
    pretrained = weights_file(params.weights, params.model)
    trainer = load_trainer(prepared, params.data, normalise, execution, processes)

    card = _card(params, data_info, normalise, pretrained)
    if processes.first:
        _say_how_images_differ(params, card)
    check_network(card.model, card.classes, card.input_shape, **card.options)

    with checkpoints_for(
        out,
        inputs=[prepared / "dataset.json", *filter(None, [pretrained])],
        parameters=[
            *(params.model, params.model_options, params.weights_options),
            *(params.train, normalise, trainer.augmentation),
            *(params.runtime, execution, processes.size),
        ],
        forget=processes.first,
    ) as checkpoints:
        training = _BaseTraining(params, card, pretrained, trainer, checkpoints, out)
        results = for_each_seed(params.seeds, training.run, execution, processes)
        rows = history_rows(params.seeds, results, report=processes.first)
        if processes.first:
            write_json(history, rows)


@dataclass(frozen=True)
class _BaseTraining:
    """What the trainings of all seeds have in common; `card` is that of the first seed."""

    params: Params
    card: ModelCard
    pretrained: Path | None
    trainer: Trainer
    checkpoints: CheckpointFolder
    out: Path

    def run(self, seed: int) -> TrainResult:
        """Train the network of a seed and write it; what is returned holds no weights."""
        card, recipe = self.card.model_copy(update={"seed": seed}), self.params.train
        first = self.trainer.distributed.first

        model = build(card.model, card.classes, card.input_shape, seed, **card.options)
        if self.pretrained:
            _load_pretrained(model, self.params, self.pretrained, seed, announce=first)
        freeze(model, recipe.freeze)

        trainer = replace(
            self.trainer,
            seed=seed,
            checkpoints=self.checkpoints.for_seed(seed),
            label=f"train_base, seed {seed}",
            head=find_head(card.model, model),
        )
        rewind_epoch = min(recipe.rewind_epoch, recipe.epochs)
        result = trainer.fit(model, recipe, keep_epochs={0, rewind_epoch})

        if first:
            network = Network(model=model, card=card)
            save_network(seed_file(self.out / "final", seed), network)
            for name, epoch in (("init", 0), ("rewind", rewind_epoch)):
                model.load_state_dict(result.kept[epoch])
                save_network(seed_file(self.out / name, seed), network)
        return replace(result, kept={})


def _normalise(params: Params, data_info: dict[str, Any]) -> Normalise | None:
    """The normalisation of images: that of params.yaml, or else of the ImageNet weights.

    If there is neither, it is by the moments of the training split.
    """
    if params.data.normalise is not None:
        return params.data.normalise
    if data_info["mean"] is None:  # texts have no moments
        return None

    package = find_package(params.weights, params.model)
    if package is not None and len(package.mean) == data_info["shape"][0]:
        return Normalise(mean=list(package.mean), std=list(package.std))
    if params.weights == IMAGENET and len(IMAGENET_MEAN) == data_info["shape"][0]:
        return Normalise(mean=list(IMAGENET_MEAN), std=list(IMAGENET_STD))

    # A channel of one value, such as an unused colour of a microscope, is only moved to zero.
    deviations = [std if std >= MIN_DEVIATION else 1.0 for std in data_info["std"]]
    return Normalise(mean=data_info["mean"], std=deviations)


def _say_how_images_differ(params: Params, card: ModelCard) -> None:
    """Print a line if the weights of a package are for images of another size."""
    package = find_package(params.weights, params.model)
    if package is None:
        return
    difference = package.differences(card.input_shape[-1], card.interpolation)
    if difference:
        print(f"train_base: {difference}")


def _card(
    params: Params,
    data_info: dict[str, Any],
    normalise: Normalise | None,
    pretrained: Path | None,
) -> ModelCard:
    """The card of the first seed's network; the others differ by their seed alone."""
    imported = None
    if pretrained:
        imported = (params.weights, sha256(pretrained))

    return ModelCard(
        model=params.model,
        classes=len(data_info["classes"]),
        input_shape=data_info["shape"],
        options=network_options(params.model, params.weights, params.model_options),
        normalise=normalise,
        seed=params.seeds[0],
        imported=imported,
        plugins=plugins_of(model=params.model),
        class_names=data_info["classes"],
        dataset=params.dataset,
        exif=data_info.get("exif") == "apply",
        grey_bits=data_info.get("grey_bits", GREY_BITS),
        interpolation=data_info.get("interpolation", "bilinear"),
    )


def _load_pretrained(
    model: nn.Module, params: Params, pretrained: Path, seed: int, *, announce: bool
) -> None:
    options = params.weights_options
    package = find_package(params.weights, params.model)
    if package is None and params.weights != IMAGENET:
        fresh_head = params.train.epochs > 0
        notes = load_weights(
            model, params.model, pretrained, options=options, fresh_head=fresh_head
        )
        if announce and notes:
            print(f"seed {seed}: weights of {params.weights}: {'; '.join(notes)}")
        return

    by_order, fresh_head = package is not None, options.head == "fresh"
    fresh_layers = load_imagenet(
        model, params.model, pretrained, by_order=by_order, fresh_head=fresh_head
    )
    if announce:
        source = "ImageNet"
        if package is not None:
            source = (
                f"ImageNet from the package {package.name} (for {package.pixels} pixels), "
                "taken by their order"
            )
        exceptions = ", ".join(fresh_layers) or "nothing"
        print(f"seed {seed}: weights of {source}, except for {exceptions}")


if __name__ == "__main__":
    run(main, wrapper=distributed)
