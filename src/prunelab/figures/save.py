"""Figures as files: the same figure gives the same bytes, whatever C library is there."""

import re
from decimal import Decimal

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
        if path.suffix == ".svg":
            text = partial.read_text(encoding="utf-8")
            partial.write_text(_without_last_digits(text), encoding="utf-8")


def _without_last_digits(svg: str) -> str:
    """Round coordinates to thousandths of a point, and number what matplotlib names by a hash.

    Logarithms and powers differ from one C library to the next in their last digit. Matplotlib
    makes that visible: it prints six decimals, and hashes all sixteen.
    """
    numbers: dict[str, int] = {}
    for name in re.findall(r'id="([a-z][0-9a-f]{10})"', svg):
        numbers.setdefault(name, len(numbers))
    names = re.compile(r"(?<=[\"#])[a-z][0-9a-f]{10}(?=[\")])")
    svg = names.sub(lambda match: f"{match[0][0]}{numbers[match[0]]}", svg)

    # The scale of a letter is no coordinate.
    coordinates = re.compile(r"scale\([^)]*\)|-?\d+\.\d{4,}|(?<!\w)-0(?![\w.])")
    return coordinates.sub(lambda match: _to_thousandths(match[0]), svg)


def _to_thousandths(text: str) -> str:
    if text.startswith("scale"):
        return text
    rounded = Decimal(text).quantize(Decimal("0.001")).normalize()
    return f"{rounded + 0:f}"  # 0 in place of -0
