"""How a picture names its lines: beside their ends where that fits, else in a legend below."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

LETTER_INCH, LINE_SAMPLE_INCH = 0.09, 0.55  # the width of a legend's parts, about
LINE_HEIGHT = 1.35  # of a label, in sizes of its font
LEGEND_LINE_INCH = 0.22
POINTS_PER_INCH = 72
MOST_OF_AXIS = 0.7  # labels that take more of an axis' height no longer stand beside their lines
LABEL_X = 1.04  # in widths of the axis


@dataclass(frozen=True)
class LineEnd:
    """Where a line ends, in data coordinates, with its name and colour."""

    name: str
    colour: str
    x: float
    y: float


def names_fit(count: int, height_inch: float, font_size: float) -> bool:
    """Whether so many names can stand beside an axis of this height."""
    return count * font_size * LINE_HEIGHT <= MOST_OF_AXIS * height_inch * POINTS_PER_INCH


def name_ends(axis: Axes, ends: Sequence[LineEnd], height_inch: float, font_size: float) -> None:
    """Write every name to the right of the axis at the height of its line's end.

    Names that would overlap are moved apart. The limits of the axis must be final.
    """
    low, high = axis.get_ylim()
    ordered = sorted(ends, key=lambda end: end.y)
    wanted = [(end.y - low) / (high - low) for end in ordered]
    heights = spread(wanted, font_size * LINE_HEIGHT / (height_inch * POINTS_PER_INCH))

    for end, height in zip(ordered, heights, strict=True):
        axis.annotate(
            end.name,
            (end.x, end.y),
            (LABEL_X, height),
            xycoords="data",
            textcoords="axes fraction",
            size=font_size,
            color=end.colour,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end.colour,
                "linewidth": 0.6,
                "alpha": 0.5,
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Heights from 0 to 1 close to the ascending `wanted` ones, at least `gap` apart.

    If there are too many for that, they are evenly apart.
    """
    count = len(wanted)
    if gap * (count - 1) >= 1:
        return [index / (count - 1) for index in range(count)]

    heights: list[float] = []
    for index, height in enumerate(wanted):
        # Those above need their room too.
        highest = 1 - gap * (count - 1 - index)
        lowest = heights[-1] + gap if heights else 0.0
        heights.append(min(max(height, lowest), highest))

    # A name was only ever pushed up. Let those below give way as well.
    for index in range(count - 2, -1, -1):
        middle = (wanted[index] + heights[index]) / 2
        lowest = gap * index
        heights[index] = max(lowest, min(middle, heights[index + 1] - gap))
    return heights


def legend_columns(names: Sequence[str], width_inch: float) -> int:
    """How many columns of a legend fit a picture of this width."""
    column_inch = LETTER_INCH * max(map(len, names)) + LINE_SAMPLE_INCH
    return min(len(names), max(1, int(width_inch / column_inch)))


def legend_height_inch(names: Sequence[str], width_inch: float) -> float:
    """The height of a legend of these names below a picture."""
    return LEGEND_LINE_INCH * ceil(len(names) / legend_columns(names, width_inch))


def legend_below(figure: Figure, lines: Sequence[Line2D]) -> None:
    """A legend with as many columns as fit the width of the figure."""
    columns = legend_columns([str(line.get_label()) for line in lines], figure.get_figwidth())
    figure.legend(handles=list(lines), loc="outside lower center", ncols=columns, frameon=False)
