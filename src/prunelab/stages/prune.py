"""Prune every seed's dense network by one method at one ratio, and train in between if needed."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from prunelab.artifacts.networks import (
    ModelCard,
    Network,
    load_model,
    load_networks,
    plugins_of,
    save_network,
    seed_file,
    seed_files,
)
from prunelab.config.params import Params, PruneSpec, load_params
from prunelab.config.restart import Restart
from prunelab.core.files import write_json
from prunelab.core.registry import pick
from prunelab.models.networks import build, find_head
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import prune
from prunelab.pruning.pruner import PruneResult
from prunelab.pruning.schedules import DenseWeights
from prunelab.runtime.device import configure
from prunelab.runtime.seeds import for_each_seed
from prunelab.stages.entry import run
from prunelab.stages.task import load_teacher, load_trainer
from prunelab.training.checkpoints import CheckpointFolder, checkpoints_for
from prunelab.training.retraining import Retrainer
from prunelab.training.trainer import Trainer

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
        pruning = _Pruning(params, spec, dense, trainer, checkpoints, base, out)
        results = for_each_seed(params.seeds, pruning.run, execution)
        for seed, (description, rounds) in zip(params.seeds, results, strict=True):
            print(f"seed {seed}: {description}")
            for row in rounds:
                rows.append({"seed": seed, **row})

        write_json(out / "rounds.json", rows)


@dataclass(frozen=True)
class _Pruning:
    """What all seeds have in common, and the dense networks by seed."""

    params: Params
    spec: PruneSpec
    dense: dict[int, Network]
    trainer: Trainer
    checkpoints: CheckpointFolder
    base: Path
    out: Path

    def run(self, seed: int) -> tuple[str, list[dict[str, float]]]:
        """Prune the network of a seed and write it; return a line about it, and its rounds."""
        params, spec = self.params, self.spec
        network = self.dense[seed].model_copy(deep=True)  # a seed may have to begin again
        final = self.base / "final"

        trainer = replace(
            self.trainer,
            seed=seed,
            teacher=load_teacher(final, seed, params.finetune, self.trainer.execution),
            checkpoints=self.checkpoints.for_seed(seed),
            label=f"prune {spec.method} at {spec.ratio}, seed {seed}",
            head=find_head(network.card.model, network.model),
        )
        pruned = prune(
            network.model,
            network.card.model,
            spec,
            shape=network.card.input_shape,
            seed=seed,
            retrainer=Retrainer(trainer, params.finetune, params.train),
            dense_weights=_dense_weights(self.base, seed, network.card, spec.method),
        )

        save_network(seed_file(self.out, seed), _pruned_network(network, pruned, spec))
        return pruned.describe(), pruned.rounds


def _dense_weights(base: Path, seed: int, card: ModelCard, method: str) -> DenseWeights | None:
    """The earlier weights of a dense network, for a method that restarts from any."""
    restart = pick(METHODS, method, "method").restart
    if restart not in (Restart.INIT, Restart.WEIGHTS, Restart.SCRATCH):
        return None

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
    method = METHODS[spec.method]
    registered = plugins_of(
        method=spec.method, criterion=method.criterion, schedule=method.schedule
    )
    card = dense.card.model_copy(
        update={
            "pruning": spec,
            "restart": method.restart,
            "plugins": dense.card.plugins | registered,
            "ratio_achieved": pruned.ratio_achieved,
            "train_macs": pruned.train_macs,
        }
    )

    return Network(model=dense.model, card=card, masks=pruned.masks)


if __name__ == "__main__":
    run(main)
