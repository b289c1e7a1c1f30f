"""What l1_channel at ratio 0.5 does to torchvision's networks, as the table in docs/networks.md.

    python benchmarks/networks.py                     # all under 100 M parameters; writes the table
    python benchmarks/networks.py swin_t resnet18     # prints the rows of these

Every network has fresh weights, reads one channel and has 7 classes, none of which torchvision's
have: so both are adapted. It is pruned, saved, reloaded and compared bit by bit, in a process of
its own. Images are small where the network can read them. CPU seconds and memory are those of
finding the groups, the check against zeroed copies included.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from prunelab.artifacts.networks import ModelCard, Network, load_model, save_network
from prunelab.config.params import Normalise, parse_params, read_params
from prunelab.core.errors import InputError
from prunelab.models.catalogue import TORCHVISION
from prunelab.models.cost import macs, parameters
from prunelab.models.networks import build, build_on_meta
from prunelab.pruning.prune import find_groups, prune

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs/networks.md"
MARK = "<!-- The table is written by benchmarks/networks.py. -->\n"
METHOD, RATIO = "l1_channel", 0.5
CLASSES, LIMIT = 7, 100e6
SIDES = {"inception": 96, "maxvit": 224, "swin": 224, "vit": 224}
HEADINGS = (
    "network",
    "pixels",
    "M parameters",
    "M MACs",
    "after",
    "fewer",
    "same bits",
    "CPU s",
    "GiB",
    "kept, besides the head",
)


def shape_of(name: str) -> tuple[int, int, int]:
    """The images that a network is measured with: small ones, unless it needs others."""
    side = SIDES.get(name.split("_")[0], 64)
    return 1, side, side


def row(name: str) -> tuple[str, ...]:
    """One row of the table, or the reason why there is nothing to say."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model_name, shape = f"torchvision/{name}", shape_of(name)
    spec = parse_params(read_params(PROJECT / "params.yaml")).spec(METHOD, RATIO)
    model = build(model_name, CLASSES, shape)
    macs_before, count = macs(model, shape), parameters(model)

    started = time.process_time()
    try:
        find_groups(model, architecture=model_name, kind="channel", shape=shape, method=METHOD)
    except InputError as error:
        return name, str(shape[1]), f"{count / 1e6:.1f}", *[""] * 6, str(error)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    result = prune(model, model_name, spec, shape=shape, seed=0)
    macs_after = macs(model, shape)
    kept = "; ".join(layers.describe() for layers in result.kept)
    return (
        name,
        str(shape[1]),
        f"{count / 1e6:.1f}",
        f"{macs_before / 1e6:.0f}",
        f"{macs_after / 1e6:.0f}",
        f"{macs_before / macs_after:.2f}x",
        "yes" if reloads(model, model_name, shape) else "NO",
        f"{seconds:.1f}",
        f"{peak:.1f}",
        kept,
    )


def reloads(model: torch.nn.Module, name: str, shape: tuple[int, int, int]) -> bool:
    """Whether the network computes the same bits once it is saved and reloaded."""
    card = ModelCard(
        model=name,
        classes=CLASSES,
        input_shape=shape,
        normalise=Normalise(mean=[0.0], std=[1.0]),
        seed=0,
        imported=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.safetensors")
        save_network(path, Network(model=model, card=card))
        reloaded = load_model(path)

    images = torch.randn(2, *shape)
    with torch.no_grad():
        return torch.equal(reloaded(images), model.eval()(images))


def names_under_limit() -> list[str]:
    """torchvision's networks of fewer than `LIMIT` parameters."""
    torch.set_num_threads(1)
    names = []
    for name in TORCHVISION:
        model = build_on_meta(f"torchvision/{name}", CLASSES, (1, 224, 224))
        if parameters(model) < LIMIT:
            names.append(name)
    return names


def main() -> None:
    """Measure the networks named, or all; all of them make the page."""
    processes = multiprocessing.get_context("fork")
    names = sys.argv[1:]
    if not names:
        with processes.Pool(1) as pool:
            names = pool.apply(names_under_limit)

    lines = [_line(HEADINGS), "|" + " --- |" * len(HEADINGS)]
    for name in names:
        with processes.Pool(1) as pool:
            lines.append(_line(pool.apply(row, (name,))))
        print(lines[-1], flush=True)

    if not sys.argv[1:]:
        text = PAGE.read_text()
        PAGE.write_text(text[: text.index(MARK)] + MARK + "\n" + "\n".join(lines) + "\n")


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
