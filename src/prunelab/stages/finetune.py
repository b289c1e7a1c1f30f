"""Train pruned networks on; masks are held through every step."""

from dataclasses import dataclass, replace
from pathlib import Path

from prunelab.artifacts.networks import Network, load_networks, save_network, seed_file, seed_files
from prunelab.config.params import Params, Recipe, Train, load_params
from prunelab.core.files import write_json
from prunelab.models.cost import training_macs
from prunelab.models.frozen import frozen
from prunelab.models.networks import example_input, find_head
from prunelab.runtime.device import configure
from prunelab.runtime.distributed import join
from prunelab.runtime.seeds import for_each_seed
from prunelab.stages.entry import run
from prunelab.stages.task import distributed, history_rows, load_teacher, load_trainer
from prunelab.training import masking
from prunelab.training.callbacks import CallAfterStep
from prunelab.training.checkpoints import CheckpointFolder, checkpoints_for
from prunelab.training.retraining import retraining
from prunelab.training.trainer import Trainer, TrainResult


def main(pruned: Path, base: Path, prepared: Path, out: Path, history: Path) -> None:
    """Fine-tune the networks of the folder PRUNED on PREPARED into OUT.

    Writes a row per epoch to HISTORY. BASE holds the dense networks, which are the teachers if
    `finetune.distill` is above 0.
    """
    params = load_params()
    execution = configure(params.runtime)
    processes = join(execution)

    networks = load_networks(pruned, params.seeds)
    first_card = networks[params.seeds[0]].card
    assert first_card.pruning is not None, f"{pruned} holds dense networks"
    trainer = load_trainer(prepared, params.data, first_card.normalise, execution, processes)

    # Some methods train by the base recipe again: with its frozen layers, and without a teacher.
    recipe, start_epoch = retraining(first_card.restart, params.train, params.finetune)

    with checkpoints_for(
        out,
        inputs=[prepared / "dataset.json", *seed_files(pruned, params.seeds)],
        parameters=[
            *(recipe, start_epoch, params.finetune, trainer.augmentation),
            *(params.runtime, execution, processes.size),
        ],
        forget=processes.first,
    ) as checkpoints:
        training = _FineTuning(
            params, networks, recipe, start_epoch, trainer, checkpoints, base, out
        )
        results = for_each_seed(params.seeds, training.run, execution, processes)
        rows = history_rows(params.seeds, results, report=processes.first)
        if processes.first:
            write_json(history, rows)


@dataclass(frozen=True)
class _FineTuning:
    """What the trainings of all seeds have in common, and the pruned networks by seed."""

    params: Params
    networks: dict[int, Network]
    recipe: Recipe
    start_epoch: int
    trainer: Trainer
    checkpoints: CheckpointFolder
    base: Path
    out: Path

    def run(self, seed: int) -> TrainResult:
        """Train the network of a seed and write it."""
        network = self.networks[seed].model_copy(deep=True)  # a seed may have to begin again
        finetune = self.params.finetune
        execution = self.trainer.execution

        teacher, frozen_layers = None, []
        if isinstance(self.recipe, Train):
            frozen_layers = self.recipe.freeze
        else:
            teacher = load_teacher(self.base, seed, finetune, execution)

        trainer = replace(
            self.trainer,
            seed=seed,
            teacher=teacher,
            checkpoints=self.checkpoints.for_seed(seed),
            label=f"finetune {self.out.parent.name}, seed {seed}",
            head=find_head(network.card.model, network.model),
        )
        model = execution.place(network.model)
        hold_masks = CallAfterStep(masking.hold(model, network.masks))
        with frozen(model, frozen_layers):
            result = trainer.fit(
                model, self.recipe, start_epoch=self.start_epoch, callback=hold_masks
            )

        if trainer.distributed.first:
            masking.verify(model, network.masks)
            tuned = _with_training_cost(network, result.images_seen)
            save_network(seed_file(self.out, seed), tuned)
        return result


def _with_training_cost(network: Network, images_seen: int) -> Network:
    card = network.card
    train_macs = training_macs(network.model, example_input(card.input_shape), images_seen)
    card = card.model_copy(update={"train_macs": card.train_macs + train_macs})
    return network.model_copy(update={"card": card})


if __name__ == "__main__":
    run(main, wrapper=distributed)
