"""Pictures as files: their bytes do not rest on the last digit of a logarithm."""

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from prunelab.figures.save import METADATA, save, save_as


def draw(factor: float) -> Figure:
    """Lines and marks on log scales; a factor stretches them, and moves the axes."""
    figure = Figure(figsize=(4, 3))
    figure.subplots_adjust(left=0.15 * factor)
    axis = figure.add_subplot()
    values = np.array([1.0, 2.5, 7.0, 40.0]) * factor
    for shape, shift in (("D", 1), ("o", 2), ("^", 3)):
        axis.plot(values, shift * values, marker=shape, label="a label")
    axis.fill_between(values, values, 2 * values, alpha=0.2)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(values[0] / 1.25, values[-1] * 1.25)
    axis.legend()
    return figure


def as_matplotlib_writes(figure: Figure, path: Path) -> str:
    with matplotlib.rc_context({"svg.hashsalt": "prunelab"}):
        figure.savefig(path, metadata=METADATA[".svg"], facecolor="white")
    return path.read_text(encoding="utf-8")


def test_last_digits_make_no_other_picture(tmp_path):
    texts = []
    for name, factor in (("one", 1.0), ("other", 1 + 2**-51)):
        plain = as_matplotlib_writes(draw(factor), tmp_path / f"{name}-plain.svg")
        save(draw(factor), tmp_path / name)
        texts.append((plain, (tmp_path / f"{name}.svg").read_bytes()))
    (plain, ours), (other_plain, other_ours) = texts

    assert plain != other_plain
    assert ours == other_ours
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def numbers(svg: str) -> list[float]:
    """All coordinates of a picture, in order; without the names, which hold digits, too."""
    without_names = re.sub(r'(id="|url\(#|href="#)[^")]*', "", svg)
    return [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?", without_names)]


def test_picture_is_the_one_that_matplotlib_draws(tmp_path):
    plain = as_matplotlib_writes(draw(1), tmp_path / "plain.svg")
    save_as(draw(1), tmp_path / "ours.svg")
    ours = (tmp_path / "ours.svg").read_text(encoding="utf-8")

    np.testing.assert_allclose(numbers(ours), numbers(plain), rtol=0, atol=0.00051)
    assert ours.count("scale(0.015625)") == plain.count("scale(0.015625)") > 0

    root = ElementTree.fromstring(ours)
    names = [element.get("id") for element in root.iter() if element.get("id")]
    used = re.findall(r'(?:url\(#|href="#)([^")]*)', ours)
    assert len(names) == len(set(names))
    assert used
    assert set(used) <= set(names)
