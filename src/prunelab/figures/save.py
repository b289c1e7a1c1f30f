"""Figures as files: the same figure gives the same bytes."""

import matplotlib
from matplotlib.figure import Figure

from prunelab.core.files import PathLike, replacing, user_path

# The formats of a picture, and what each must not say of the time and the program.
METADATA: dict[str, dict[str, None]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
}


def save(figure: Figure, stem: PathLike) -> None:
    """Write `stem`.svg and `stem`.png."""
    for suffix in METADATA:
        save_as(figure, user_path(stem).with_suffix(suffix))


def save_as(figure: Figure, path: PathLike) -> None:
    """Write one picture in the format of the file's suffix, .svg or .png."""
    path = user_path(path)

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
