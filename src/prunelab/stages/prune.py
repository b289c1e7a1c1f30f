"""Prune every seed's dense network by one method at one ratio, training in between where its schedule says so."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from prunelab.artifacts.networks import Network, load_network, save_network, seed_file
from prunelab.config.params import load_params
from prunelab.core.files import write_json
from prunelab.models.catalogue import build
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import Bases, prune
from prunelab.runtime.device import configure
from prunelab.stages.entry import run
from prunelab.stages.task import load_teacher, load_trainer
from prunelab.training.checkpoints import checkpoints_for
from prunelab.training.retraining import Retrainer


def main(
    base: Path,
    prepared: Path,
    out: Path,
    method: Annotated[str, Option()],
    ratio: Annotated[float, Option()],
) -> None:
    """Prune the networks in the folder BASE/final, on data of the folder PREPARED, and write them to the folder OUT."""
    params = load_params()
    execution = configure(params.runtime)
    spec = params.spec(method, ratio)
    dense = {seed: load_network(seed_file(base / "final", seed)) for seed in params.seeds}
    trainer = load_trainer(prepared, params.data, dense[params.seeds[0]].card.normalise, execution)
    rows = []
    with checkpoints_for(
        out,
        inputs=[
            prepared / "dataset.json",
            *(seed_file(base / "final", seed) for seed in params.seeds),
        ],
        parameters=[
            spec,
            params.train,
            params.finetune,
            trainer.augmentation,
            params.runtime,
            execution,
        ],
    ) as checkpoints:
        for seed, network in dense.items():
            card = network.card
            seed_trainer = replace(
                trainer,
                seed=seed,
                teacher=load_teacher(base / "final", seed, params.finetune, execution),
                checkpoints=checkpoints.for_seed(seed),
                label=f"prune {method} at {ratio}, seed {seed}",
            )
            bases = Bases(
                init=load_network(seed_file(base / "init", seed)).model.state_dict(),
                rewind=load_network(seed_file(base / "rewind", seed)).model.state_dict(),
                fresh=partial(
                    build, card.model, card.classes, card.input_shape, seed + 2**31, **card.options
                ),
            )
            pruned = prune(
                network.model,
                card.model,
                spec,
                shape=card.input_shape,
                seed=seed,
                retrainer=Retrainer(seed_trainer, params.finetune, params.train),
                bases=bases,
            )
            card = card.model_copy(
                update={
                    "pruning": spec,
                    "restart": METHODS[method].restart,
                    "ratio_achieved": pruned.ratio_achieved,
                    "train_macs": pruned.train_macs,
                }
            )
            save_network(
                seed_file(out, seed), Network(model=network.model, card=card, masks=pruned.masks)
            )
            print(f"seed {seed}: {pruned.describe()}")
            rows += [{"seed": seed, **row} for row in pruned.rounds]
        write_json(out / "rounds.json", rows)


if __name__ == "__main__":
    run(main)
