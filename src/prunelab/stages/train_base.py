"""Train the dense network once per seed; every method starts from these weights."""

from pathlib import Path

from prunelab.artifacts.checkpoints import unfinished
from prunelab.artifacts.files import read_json, sha256, write_json
from prunelab.artifacts.networks import Card, Network, save_network, seed_file
from prunelab.artifacts.prepared import load_split
from prunelab.data.batches import Augmentation
from prunelab.models.catalogue import build
from prunelab.models.frozen import freeze
from prunelab.models.weights import IMAGENET, load_imagenet, load_weights, weights_file
from prunelab.params import Normalise, load_params
from prunelab.runtime import configure
from prunelab.stages.entry import run
from prunelab.training import Task, fit


def main(prepared: Path, out: Path, history: Path) -> None:
    """Train on the folder PREPARED; write OUT/init, OUT/rewind and OUT/final, and a row per epoch to HISTORY."""
    params = load_params()
    execution = configure(params.runtime)
    facts = read_json(prepared / "dataset.json")
    normalise = params.data.normalise or Normalise(mean=facts["mean"], std=facts["std"])
    augmentation = Augmentation(params.data.crop_padding, params.data.flip)
    imported = weights_file(params.weights, params.model)
    task = Task.of(
        load_split(prepared, "train"),
        load_split(prepared, "validation"),
        normalise=normalise,
        augmentation=augmentation,
        execution=execution,
    )
    rewind_epoch = min(params.train.rewind_epoch, params.train.epochs)
    rows = []
    with unfinished(
        out,
        inputs=[prepared / "dataset.json", *([imported] if imported else [])],
        parameters=[params.model, params.train, normalise, augmentation, params.runtime, execution],
    ) as checkpoint:
        for seed in params.seeds:
            model = build(params.model, len(facts["classes"]), tuple(facts["shape"]), seed)
            if imported and params.weights == IMAGENET:
                fresh = load_imagenet(model, params.model, imported)
                print(f"seed {seed}: weights of ImageNet, but for {', '.join(fresh) or 'nothing'}")
            elif imported:
                load_weights(model, imported)
            freeze(model, params.train.freeze)
            card = Card(
                model=params.model,
                classes=len(facts["classes"]),
                input_shape=facts["shape"],
                normalise=normalise,
                seed=seed,
                imported=(params.weights, sha256(imported)) if imported else None,
            )
            fitted = fit(
                model,
                task,
                params.train,
                seed=seed,
                keep_epochs={0, rewind_epoch},
                store=checkpoint(seed),
                label=f"train_base, seed {seed}",
            )
            save_network(seed_file(out / "final", seed), Network(model=model, card=card))
            for name, epoch in (("init", 0), ("rewind", rewind_epoch)):
                model.load_state_dict(fitted.kept[epoch])
                save_network(seed_file(out / name, seed), Network(model=model, card=card))
            print(f"seed {seed}: {fitted.describe()}")
            rows += [{"seed": seed, **row} for row in fitted.history]
        write_json(history, rows)


if __name__ == "__main__":
    run(main)
