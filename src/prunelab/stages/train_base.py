"""Train the dense network once per seed; every method starts from these weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from prunelab.artifacts.networks import ModelCard, Network, save_network, seed_file
from prunelab.artifacts.prepared import read_data_info
from prunelab.config.params import Normalise, Params, load_params
from prunelab.core.files import sha256, write_json
from prunelab.models.catalogue import MODELS
from prunelab.models.frozen import freeze
from prunelab.models.imagenet import IMAGENET
from prunelab.models.networks import build
from prunelab.models.weights import load_imagenet, load_weights, weights_file
from prunelab.runtime.device import configure
from prunelab.runtime.distributed import join
from prunelab.stages.entry import run
from prunelab.stages.task import distributed, load_trainer
from prunelab.training.checkpoints import checkpoints_for


def main(prepared: Path, out: Path, history: Path) -> None:
    """Train on the folder PREPARED.

    Writes OUT/init, OUT/rewind and OUT/final, and a row per epoch to HISTORY.
    """
    params = load_params()
    execution = configure(params.runtime)
    processes = join(execution)

    data_info = read_data_info(prepared)
    normalise = _normalise(params, data_info)
    pretrained = weights_file(params.weights, params.model)
    trainer = load_trainer(prepared, params.data, normalise, execution, processes)
    rewind_epoch = min(params.train.rewind_epoch, params.train.epochs)

    rows = []
    with checkpoints_for(
        out,
        inputs=[prepared / "dataset.json", *filter(None, [pretrained])],
        parameters=[
            *(params.model, params.train, normalise, trainer.augmentation),
            *(params.runtime, execution, processes.size),
        ],
        forget=processes.first,
    ) as checkpoints:
        for seed in params.seeds:
            card = _card(params, data_info, normalise, seed, pretrained)
            model = build(card.model, card.classes, card.input_shape, seed, **card.options)
            if pretrained:
                _load_pretrained(model, params, pretrained, seed, announce=processes.first)
            freeze(model, params.train.freeze)

            seed_trainer = replace(
                trainer,
                seed=seed,
                checkpoints=checkpoints.for_seed(seed),
                label=f"train_base, seed {seed}",
            )
            result = seed_trainer.fit(model, params.train, keep_epochs={0, rewind_epoch})
            if not processes.first:
                continue

            network = Network(model=model, card=card)
            save_network(seed_file(out / "final", seed), network)
            for name, epoch in (("init", 0), ("rewind", rewind_epoch)):
                model.load_state_dict(result.kept[epoch])
                save_network(seed_file(out / name, seed), network)
            print(f"seed {seed}: {result.describe()}")
            for row in result.history:
                rows.append({"seed": seed, **row})

        if processes.first:
            write_json(history, rows)


def _normalise(params: Params, data_info: dict[str, Any]) -> Normalise | None:
    """The normalisation of images: that of params.yaml, or the moments of the training split."""
    if params.data.normalise is not None:
        return params.data.normalise
    if data_info["mean"] is None:  # texts have no moments
        return None
    return Normalise(mean=data_info["mean"], std=data_info["std"])


def _card(
    params: Params,
    data_info: dict[str, Any],
    normalise: Normalise | None,
    seed: int,
    pretrained: Path | None,
) -> ModelCard:
    imported = None
    if pretrained:
        imported = (params.weights, sha256(pretrained))

    return ModelCard(
        model=params.model,
        classes=len(data_info["classes"]),
        input_shape=data_info["shape"],
        options=MODELS[params.model].options(params.weights),
        normalise=normalise,
        seed=seed,
        imported=imported,
    )


def _load_pretrained(
    model: nn.Module, params: Params, pretrained: Path, seed: int, *, announce: bool
) -> None:
    if params.weights != IMAGENET:
        load_weights(model, pretrained)
        return

    fresh_layers = load_imagenet(model, params.model, pretrained)
    if announce:
        exceptions = ", ".join(fresh_layers) or "nothing"
        print(f"seed {seed}: weights of ImageNet, except for {exceptions}")


if __name__ == "__main__":
    run(main, wrapper=distributed)
