"""Prune every seed's dense network by one method at one ratio."""

from pathlib import Path
from typing import Annotated

from typer import Option

from prunelab.artifacts.networks import Network, load_network, save_network, seed_file
from prunelab.params import load_params
from prunelab.pruning.methods import prune
from prunelab.runtime import configure
from prunelab.stages.entry import run


def main(base: Path, out: Path, method: Annotated[str, Option()], ratio: Annotated[float, Option()]) -> None:
    """Prune the networks in the folder BASE and write them to the folder OUT."""
    params = load_params()
    configure(params.runtime)
    spec = params.spec(method, ratio)
    for seed in params.seeds:
        network = load_network(seed_file(base, seed))
        card = network.card
        pruned = prune(network.model, card.model, spec, shape=card.input_shape, seed=seed)
        card = card.model_copy(update={"pruning": spec, "ratio_achieved": pruned.ratio_achieved})
        save_network(seed_file(out, seed), Network(model=network.model, card=card, masks=pruned.masks))
        print(f"seed {seed}: {pruned.describe()}")


if __name__ == "__main__":
    run(main)
