"""README.md of an exported folder: what the network is, how good it is, and whence it comes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunelab.artifacts.networks import Network
from prunelab.config.params import load_params
from prunelab.core.errors import InputError
from prunelab.core.escape import escape_markdown
from prunelab.core.files import read_json
from prunelab.core.text import name_list
from prunelab.models.cost import macs, parameters
from prunelab.project.paths import BASE, DENSE_METRICS, FOCUS, GRID, METRICS
from prunelab.statistics.intervals import with_interval

# Where the data sets of the package come from, and under what terms.
DATA_SOURCES = {
    "digits": (
        "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI 1998, as "
        "scikit-learn ships it. Licence: CC BY 4.0."
    ),
    "cifar10": (
        "CIFAR-10, A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. Its "
        "authors state no licence."
    ),
    "cifar100": (
        "CIFAR-100, A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. "
        "Its authors state no licence."
    ),
}
UNKNOWN_SOURCE = (
    "Not known to prunelab. Say here whose data it is and under what licence, before you pass this "
    "folder on."
)
MAX_RATIO_GAP = 0.05  # between this network and the mean over seeds that metrics give


def model_card(network: Network, source: Path, classes: Sequence[str], files: Sequence[str]) -> str:
    """The text of README.md.

    Args:
        network: the exported network
        source: its model file; metrics are those of the project that has it
        classes: the names of the classes
        files: what lies beside README.md
    """
    card = network.card
    shown = [escape_markdown(name) for name in classes]
    lines = [
        f"# {escape_markdown(card.model)}, {_pruning(network)}",
        "",
        f"A classifier of {len(classes)} classes: {name_list(shown)}. It always names one of them, "
        "whatever it is shown.",
        "",
        "## Use it",
        "",
        "```sh",
        *_commands(card.normalise is not None),
        "```",
        "",
        f"Files: {', '.join(f'`{file}`' for file in files)}. `preprocess.json` holds how inputs "
        "are made, and `classes.txt` the classes in the order of the scores.",
        "",
        "## What it is",
        "",
        f"- Network: {escape_markdown(card.model)}, "
        f"{parameters(network.model):,} parameters, {macs(network.model, card.input_shape):,} "
        "multiply-accumulates for one input.",
        f"- Pruning: {_pruning(network)}.",
        f"- Input: {_input(network)}.",
        f"- Seed: {card.seed}.",
        "",
        "## How good it is",
        "",
        *_numbers(network, source),
        "",
        "## Where it comes from",
        "",
        f"- Data: {DATA_SOURCES.get(card.dataset, UNKNOWN_SOURCE)}",
        f"- Weights: {_weights(network)}",
        "- Made with prunelab. Apart from data and weights, use it as its owner allows.",
    ]
    return "\n".join(lines) + "\n"


def _commands(reads_images: bool) -> list[str]:
    if reads_images:
        return [
            "pip install numpy pillow onnxruntime    # or torch in place of onnxruntime",
            "python predict.py photo.jpg",
        ]
    return [
        "pip install numpy tokenizers onnxruntime    # or torch in place of onnxruntime",
        'python predict.py "a text"',
    ]


def _pruning(network: Network) -> str:
    spec = network.card.pruning
    if spec is None:
        return "not pruned"
    units = {"native": "what the method prunes", "params": "the parameters", "macs": "the MACs"}
    return (
        f"pruned by {escape_markdown(spec.method)}, {network.card.ratio_achieved:.1%} of "
        f"{units[spec.budget]}"
    )


def _input(network: Network) -> str:
    card = network.card
    if card.normalise is None:
        return f"up to {card.input_shape[0]} tokens of a text"
    channels, height, width = card.input_shape
    colours = "grey" if channels == 1 else "RGB"
    return (
        f"images of any size, of which the centre becomes {width} x {height} pixels "
        f"({card.interpolation}), {colours}"
    )


def _weights(network: Network) -> str:
    if network.card.imported is None:
        return "trained from scratch."
    name, digest = network.card.imported
    return f"training started from {escape_markdown(name)} (SHA-256 `{digest}`)."


def _numbers(network: Network, source: Path) -> list[str]:
    """The metrics of this network's configuration, or why there are none."""
    metrics_file = _metrics_file(source)
    if metrics_file is None or not metrics_file.is_file():
        return ["No metrics of it were at hand."]

    metrics: dict[str, Any] = read_json(metrics_file)
    achieved = metrics.get("ratio_achieved", 0.0)
    if abs(achieved - network.card.ratio_achieved) > MAX_RATIO_GAP:
        return [f"`{metrics_file}` is about another network, so its numbers are not repeated here."]

    lines = [
        f"{_measured_on()}, with 95 % intervals (`{metrics_file}`):",
        "",
        f"- accuracy: {_share(metrics, 'accuracy')} %",
    ]
    if network.card.pruning is not None:
        lines += [
            f"- below the dense network: {_share(metrics, 'accuracy_drop')} percentage points",
            f"- multiply-accumulates: {metrics['macs_ratio']:.2f} times fewer than it has",
        ]
    return lines


def _share(metrics: dict[str, Any], key: str) -> str:
    return with_interval(metrics[key], metrics[f"{key}_ci95"])


def _measured_on() -> str:
    """On which split, and for how many seeds, as far as params.yaml says it."""
    try:
        params = load_params()
    except InputError:
        return "In the study"
    count = len(params.seeds)
    seeds = "of one seed" if count == 1 else f"means over {count} seeds"
    return f"On the {params.evaluate.split} split, {seeds}"


def _metrics_file(source: Path) -> Path | None:
    """The metrics of the configuration to which a model file of this project belongs."""
    try:
        # DVC may keep the file itself as a link into its cache.
        folder = source.parent.resolve().relative_to(Path.cwd().resolve())
    except ValueError:
        return None

    if folder == FOCUS:
        return METRICS
    if folder == BASE:
        return DENSE_METRICS
    if folder.name == "finetuned" and folder.parent.parent == Path("models/grid"):
        return GRID / f"{folder.parent.name}.json"
    return None
