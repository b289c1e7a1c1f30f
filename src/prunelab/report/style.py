"""How pictures look: the same colour for a method everywhere, and files that are the same to the byte."""

import zlib
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.figure import Figure

from prunelab.core.files import replacing

matplotlib.rcdefaults()  # a matplotlibrc of the user's must not change the pictures
matplotlib.rcParams["text.parse_math"] = (
    False  # classes and branches have names of their own: a $ begins no formula
)

# Okabe and Ito's palette, which colour-blind readers can tell apart. A method without a colour here gets one by its
# name, the same in every picture. Random controls are grey and dotted: they are there to be beaten.
COLOURS = {
    "l1_unstructured": "#0072B2",
    "l1_unstructured_layerwise": "#56B4E9",
    "l1_channel": "#D55E00",
    "l2_channel": "#E69F00",
    "random_unstructured": "#8a8a8a",
    "random_channel": "#4d4d4d",
}
OTHER_COLOURS = ("#009E73", "#CC79A7", "#8C6D31", "#7B4FA3", "#17808A", "#B2182B")
MARKERS = "osD^vPX"
DENSE_COLOUR = "#111111"


def colour(method: str) -> str:
    return COLOURS.get(method) or OTHER_COLOURS[zlib.crc32(method.encode()) % len(OTHER_COLOURS)]


def is_control(method: str) -> bool:
    return method.startswith("random")


def line_style(method: str) -> Literal[":", "-"]:
    return ":" if is_control(method) else "-"


def marker(method: str) -> str:
    known = list(COLOURS)
    index = known.index(method) if method in known else zlib.crc32(method.encode())
    return MARKERS[index % len(MARKERS)]


METADATA: dict[str, dict[str, None]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
}


def save(figure: Figure, stem: Path) -> None:
    """Write `stem`.svg and `stem`.png; the same figure gives the same bytes."""
    for suffix in METADATA:
        save_as(figure, stem.with_suffix(suffix))


def save_as(figure: Figure, path: Path) -> None:
    """Write one picture, in the format of its name: .svg or .png."""
    # Without a salt and with a date, matplotlib's SVG differs from run to run.
    with matplotlib.rc_context({"svg.hashsalt": "prunelab"}), replacing(path) as partial:
        figure.savefig(
            partial,
            format=path.suffix[1:],
            dpi=150,
            metadata=METADATA[path.suffix],
            facecolor="white",
        )
