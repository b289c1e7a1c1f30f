"""How pictures look: one colour per method everywhere, and files that are the same to the byte."""

import zlib
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.figure import Figure

from prunelab.core.files import replacing

# A user's matplotlibrc must not change the pictures.
matplotlib.rcdefaults()
# Names of classes and branches may contain a $, which must not begin a formula.
matplotlib.rcParams["text.parse_math"] = False

# Okabe and Ito's palette, which colour-blind readers can tell apart. Random controls are grey and
# dotted: they are there to be beaten. Any other method gets one of the other colours by the
# checksum of its name, so that it has the same colour in every picture.
COLOURS = {
    "l1_unstructured": "#0072B2",
    "l1_unstructured_layerwise": "#56B4E9",
    "l1_channel": "#D55E00",
    "l2_channel": "#E69F00",
    "random_unstructured": "#8a8a8a",
    "random_channel": "#4d4d4d",
}
OTHER_COLOURS = ("#009E73", "#CC79A7", "#8C6D31", "#7B4FA3", "#17808A", "#B2182B")
DENSE_COLOUR = "#111111"
MARKERS = "osD^vPX"

# The formats of a picture, and what each must not say of the time and the program.
METADATA: dict[str, dict[str, None]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
}


def colour(method: str) -> str:
    """The colour of a method, #rrggbb, the same in every picture."""
    if method in COLOURS:
        return COLOURS[method]
    return OTHER_COLOURS[zlib.crc32(method.encode()) % len(OTHER_COLOURS)]


def is_control(method: str) -> bool:
    """Whether a method removes at random, as a control for the others."""
    return method.startswith("random")


def line_style(method: str) -> Literal[":", "-"]:
    """Matplotlib's style of a method's line: dotted for a control."""
    return ":" if is_control(method) else "-"


def marker(method: str) -> str:
    """Matplotlib's marker of a method's points, the same in every picture."""
    known = list(COLOURS)
    if method in known:
        return MARKERS[known.index(method) % len(MARKERS)]
    return MARKERS[zlib.crc32(method.encode()) % len(MARKERS)]


def save(figure: Figure, stem: Path) -> None:
    """Write `stem`.svg and `stem`.png. The same figure gives the same bytes."""
    for suffix in METADATA:
        save_as(figure, stem.with_suffix(suffix))


def save_as(figure: Figure, path: Path) -> None:
    """Write one picture in the format of the file's suffix, .svg or .png."""
    # With a date and without a fixed salt, matplotlib's SVG differs from run to run.
    fixed_salt = matplotlib.rc_context({"svg.hashsalt": "prunelab"})

    with fixed_salt, replacing(path) as partial:
        figure.savefig(
            partial,
            format=path.suffix[1:],
            dpi=150,
            metadata=METADATA[path.suffix],
            facecolor="white",
        )
