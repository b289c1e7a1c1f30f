"""Prune every seed's dense network by one method at one ratio, and train in between if needed."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from prunelab.artifacts.networks import (
    ModelCard,
    Network,
    load_model,
    load_networks,
    save_network,
    seed_file,
    seed_files,
)
from prunelab.config.params import PruneSpec, load_params
from prunelab.core.files import write_json
from prunelab.models.networks import build
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import prune
from prunelab.pruning.pruner import PruneResult
from prunelab.pruning.schedules import DenseWeights
from prunelab.runtime.device import configure
from prunelab.stages.entry import run
from prunelab.stages.task import load_teacher, load_trainer
from prunelab.training.checkpoints import checkpoints_for
from prunelab.training.retraining import Retrainer

FRESH_SEED_OFFSET = 2**31  # fresh weights have a seed that no dense network has


def main(
    base: Path,
    prepared: Path,
    out: Path,
    method: Annotated[str, Option()],
    ratio: Annotated[float, Option()],
) -> None:
    """Prune the networks in the folder BASE/final into the folder OUT, on data of PREPARED."""
    params = load_params()
    execution = configure(params.runtime)
    spec = params.spec(method, ratio)

    dense = load_networks(base / "final", params.seeds)
    normalise = dense[params.seeds[0]].card.normalise
    trainer = load_trainer(prepared, params.data, normalise, execution)

    rows = []
    with checkpoints_for(
        out,
        inputs=[prepared / "dataset.json", *seed_files(base / "final", params.seeds)],
        parameters=[
            *(spec, params.train, params.finetune, trainer.augmentation),
            *(params.runtime, execution),
        ],
    ) as checkpoints:
        for seed, network in dense.items():
            seed_trainer = replace(
                trainer,
                seed=seed,
                teacher=load_teacher(base / "final", seed, params.finetune, execution),
                checkpoints=checkpoints.for_seed(seed),
                label=f"prune {method} at {ratio}, seed {seed}",
            )
            pruned = prune(
                network.model,
                network.card.model,
                spec,
                shape=network.card.input_shape,
                seed=seed,
                retrainer=Retrainer(seed_trainer, params.finetune, params.train),
                dense_weights=_dense_weights(base, seed, network.card),
            )

            save_network(seed_file(out, seed), _pruned_network(network, pruned, spec))
            print(f"seed {seed}: {pruned.describe()}")
            for row in pruned.rounds:
                rows.append({"seed": seed, **row})

        write_json(out / "rounds.json", rows)


def _dense_weights(base: Path, seed: int, card: ModelCard) -> DenseWeights:
    fresh_seed = seed + FRESH_SEED_OFFSET
    return DenseWeights(
        init=load_model(seed_file(base / "init", seed)).state_dict(),
        rewind=load_model(seed_file(base / "rewind", seed)).state_dict(),
        fresh=partial(
            build, card.model, card.classes, card.input_shape, fresh_seed, **card.options
        ),
    )


def _pruned_network(dense: Network, pruned: PruneResult, spec: PruneSpec) -> Network:
    """The network with a card that says how it was pruned; its model was pruned in place."""
    card = dense.card.model_copy(
        update={
            "pruning": spec,
            "restart": METHODS[spec.method].restart,
            "ratio_achieved": pruned.ratio_achieved,
            "train_macs": pruned.train_macs,
        }
    )

    return Network(model=dense.model, card=card, masks=pruned.masks)


if __name__ == "__main__":
    run(main)
