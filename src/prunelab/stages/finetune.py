"""Train pruned networks on; masks are held through every step."""

from dataclasses import replace
from pathlib import Path

from prunelab.artifacts.networks import Network, load_network, save_network, seed_file
from prunelab.config.params import load_params
from prunelab.core.files import write_json
from prunelab.models.cost import training_macs
from prunelab.models.frozen import frozen
from prunelab.runtime.device import configure
from prunelab.runtime.distributed import join
from prunelab.stages.entry import run
from prunelab.stages.task import load_teacher, load_trainer, together
from prunelab.training import masking
from prunelab.training.callbacks import CallAfterStep
from prunelab.training.checkpoints import checkpoints_for
from prunelab.training.retraining import retraining


def main(pruned: Path, base: Path, prepared: Path, out: Path, history: Path) -> None:
    """Fine-tune the networks of the folder PRUNED on PREPARED into OUT, and write a row per epoch to HISTORY.

    BASE holds the dense networks, which teach where `finetune.distill` says so.
    """
    params = load_params()
    execution = configure(params.runtime)
    ranks = join(execution)
    networks = {seed: load_network(seed_file(pruned, seed)) for seed in params.seeds}
    first = networks[params.seeds[0]].card
    assert first.pruning is not None, f"{pruned} holds dense networks"
    recipe, first_epoch = retraining(first.restart, params.train, params.finetune)
    tuned = (
        recipe is params.finetune
    )  # or trained by the base recipe again, as it says and without a teacher
    trainer = load_trainer(prepared, params.data, first.normalise, execution, ranks)
    rows = []
    with checkpoints_for(
        out,
        inputs=[prepared / "dataset.json", *(seed_file(pruned, seed) for seed in params.seeds)],
        parameters=[
            recipe,
            first_epoch,
            params.finetune,
            trainer.augmentation,
            params.runtime,
            execution,
            ranks.size,
        ],
        forget=ranks.first,
    ) as checkpoints:
        for seed, network in networks.items():
            execution.place(network.model)
            seed_trainer = replace(
                trainer,
                seed=seed,
                teacher=load_teacher(base, seed, params.finetune, execution) if tuned else None,
                checkpoints=checkpoints.for_seed(seed),
                label=f"finetune {out.parent.name}, seed {seed}",
            )
            with frozen(network.model, [] if tuned else params.train.freeze):
                fitted = seed_trainer.fit(
                    network.model,
                    recipe,
                    start_epoch=first_epoch,
                    callback=CallAfterStep(masking.hold(network.model, network.masks)),
                )
            if not ranks.first:
                continue
            masking.verify(network.model, network.masks)
            card = network.card
            spent = training_macs(network.model, card.input_shape, fitted.images_seen)
            card = card.model_copy(update={"train_macs": card.train_macs + spent})
            save_network(
                seed_file(out, seed), Network(model=network.model, card=card, masks=network.masks)
            )
            print(f"seed {seed}: {fitted.describe()}")
            rows += [{"seed": seed, **row} for row in fitted.history]
        if ranks.first:
            write_json(history, rows)


if __name__ == "__main__":
    run(main, by=together)
