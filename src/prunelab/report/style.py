"""How pictures look: one colour, line and marker per method everywhere."""

import zlib
from typing import Literal

# Okabe and Ito's palette, which colour-blind readers can tell apart. Random controls are grey and
# dotted: they are there to be beaten. Any other method gets one of the other colours, or greys, by
# the checksum of its name, so that it has the same colour in every picture.
COLOURS = {
    "l1_unstructured": "#0072B2",
    "l1_unstructured_layerwise": "#56B4E9",
    "l1_channel": "#D55E00",
    "l2_channel": "#E69F00",
    "random_unstructured": "#8a8a8a",
    "random_channel": "#4d4d4d",
    "l1_head": "#009E73",
    "l1_hidden": "#CC79A7",
}
OTHER_COLOURS = ("#009E73", "#CC79A7", "#8C6D31", "#7B4FA3", "#17808A", "#B2182B")
CONTROL_COLOURS = ("#8a8a8a", "#4d4d4d")
DENSE_COLOUR = "#111111"
MARKERS = "osD^vPX"


def colour(method: str) -> str:
    """The colour of a method, #rrggbb, the same in every picture."""
    if method in COLOURS:
        return COLOURS[method]
    others = CONTROL_COLOURS if is_control(method) else OTHER_COLOURS
    return others[zlib.crc32(method.encode()) % len(others)]


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
