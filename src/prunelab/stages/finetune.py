"""Train pruned networks on; masks are held through every step."""

from pathlib import Path

from prunelab.artifacts.checkpoints import unfinished
from prunelab.artifacts.files import write_json
from prunelab.artifacts.networks import Network, load_network, save_network, seed_file
from prunelab.artifacts.prepared import load_split
from prunelab.data.batches import Augmentation
from prunelab.measuring.cost import training_macs
from prunelab.params import load_params
from prunelab.pruning import masks
from prunelab.runtime import configure
from prunelab.stages.entry import run
from prunelab.training import Task, fit


def main(pruned: Path, prepared: Path, out: Path, history: Path) -> None:
    """Fine-tune the networks of the folder PRUNED on PREPARED into OUT, and write a row per epoch to HISTORY."""
    params = load_params()
    execution = configure(params.runtime)
    augmentation = Augmentation(params.data.crop_padding, params.data.flip)
    networks = {seed: load_network(seed_file(pruned, seed)) for seed in params.seeds}
    task = Task.of(
        load_split(prepared, "train"),
        load_split(prepared, "validation"),
        normalise=networks[params.seeds[0]].card.normalise,
        augmentation=augmentation,
        execution=execution,
    )
    rows = []
    with unfinished(
        out,
        inputs=[prepared / "dataset.json", *(seed_file(pruned, seed) for seed in params.seeds)],
        parameters=[params.finetune, augmentation, params.runtime, execution],
    ) as checkpoint:
        for seed, network in networks.items():
            execution.place(network.model)
            fitted = fit(
                network.model,
                task,
                params.finetune,
                seed=seed,
                after_step=masks.hold(network.model, network.masks),
                store=checkpoint(seed),
                label=f"finetune {out.parent.name}, seed {seed}",
            )
            masks.verify(network.model, network.masks)
            card = network.card
            spent = training_macs(network.model, card.input_shape, fitted.images_seen)
            card = card.model_copy(update={"train_macs": card.train_macs + spent})
            save_network(seed_file(out, seed), Network(model=network.model, card=card, masks=network.masks))
            print(f"seed {seed}: {fitted.describe()}")
            rows += [{"seed": seed, **row} for row in fitted.history]
        write_json(history, rows)


if __name__ == "__main__":
    run(main)
