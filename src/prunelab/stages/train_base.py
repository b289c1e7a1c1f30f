"""Train the dense network once per seed; every method starts from these weights."""

from dataclasses import replace
from pathlib import Path

from prunelab.artifacts.networks import ModelCard, Network, save_network, seed_file
from prunelab.artifacts.prepared import read_data_info
from prunelab.config.params import Normalise, load_params
from prunelab.core.files import sha256, write_json
from prunelab.models.catalogue import MODELS, build
from prunelab.models.frozen import freeze
from prunelab.models.imagenet import IMAGENET
from prunelab.models.weights import load_imagenet, load_weights, weights_file
from prunelab.runtime.device import configure
from prunelab.runtime.distributed import join
from prunelab.stages.entry import run
from prunelab.stages.task import load_trainer, together
from prunelab.training.checkpoints import checkpoints_for


def main(prepared: Path, out: Path, history: Path) -> None:
    """Train on the folder PREPARED; write OUT/init, OUT/rewind and OUT/final, and a row per epoch to HISTORY."""
    params = load_params()
    execution = configure(params.runtime)
    ranks = join(execution)
    facts = read_data_info(prepared)
    normalise = params.data.normalise
    if normalise is None and facts["mean"] is not None:  # texts have no moments
        normalise = Normalise(mean=facts["mean"], std=facts["std"])
    imported = weights_file(params.weights, params.model)
    options = MODELS[params.model].options(params.weights)
    trainer = load_trainer(prepared, params.data, normalise, execution, ranks)
    rewind_epoch = min(params.train.rewind_epoch, params.train.epochs)
    rows = []
    with checkpoints_for(
        out,
        inputs=[prepared / "dataset.json", *([imported] if imported else [])],
        parameters=[
            params.model,
            params.train,
            normalise,
            trainer.augmentation,
            params.runtime,
            execution,
            ranks.size,
        ],
        forget=ranks.first,
    ) as checkpoints:
        for seed in params.seeds:
            model = build(
                params.model, len(facts["classes"]), tuple(facts["shape"]), seed, **options
            )
            if imported and params.weights == IMAGENET:
                fresh = load_imagenet(model, params.model, imported)
                if ranks.first:
                    print(
                        f"seed {seed}: weights of ImageNet, but for {', '.join(fresh) or 'nothing'}"
                    )
            elif imported:
                load_weights(model, imported)
            freeze(model, params.train.freeze)
            card = ModelCard(
                model=params.model,
                classes=len(facts["classes"]),
                input_shape=facts["shape"],
                options=options,
                normalise=normalise,
                seed=seed,
                imported=(params.weights, sha256(imported)) if imported else None,
            )
            seed_trainer = replace(
                trainer,
                seed=seed,
                checkpoints=checkpoints.for_seed(seed),
                label=f"train_base, seed {seed}",
            )
            fitted = seed_trainer.fit(model, params.train, keep_epochs={0, rewind_epoch})
            if not ranks.first:
                continue
            save_network(seed_file(out / "final", seed), Network(model=model, card=card))
            for name, epoch in (("init", 0), ("rewind", rewind_epoch)):
                model.load_state_dict(fitted.kept[epoch])
                save_network(seed_file(out / name, seed), Network(model=model, card=card))
            print(f"seed {seed}: {fitted.describe()}")
            rows += [{"seed": seed, **row} for row in fitted.history]
        if ranks.first:
            write_json(history, rows)


if __name__ == "__main__":
    run(main, by=together)
