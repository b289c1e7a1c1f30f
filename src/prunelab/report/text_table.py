"""Tables as text: aligned for a terminal, or in Markdown."""

from collections.abc import Collection, Sequence
from itertools import zip_longest
from textwrap import wrap

from prunelab.core.errors import one_line

Line = list[str]

MAX_WIDTH = 100  # characters of a line, unless a caller says otherwise
WIDE = 120  # of tables with more numbers than fit into the above
GAP = "  "  # between columns
INDENT = "    "  # of a text below a row
TITLE_LINES = 3  # of a narrow table, at most
KEY_WIDTH = 20  # to which columns that several tables repeat may be narrowed
MIN_WIDTH = 8  # of a column that is made narrower, in characters


def markdown_table(header: Line, lines: Sequence[Line]) -> str:
    """A table in Markdown. Cells go in as they are: escape what other people named."""
    rows = [header, [":--"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def aligned_table(
    header: Line, lines: Sequence[Line], max_width: int = MAX_WIDTH, *, keys: int = 1
) -> str:
    """A table in plain text, with unprintable characters spelt out.

    If a line were longer than `max_width` characters, titles take several lines. If that is not
    enough, the table becomes several, each with the first `keys` columns, which say what a row is
    about. Of these, all but the first may take several lines. Any other cell does so only if there
    is no room for it beside them.
    """
    rows = [list(map(one_line, line)) for line in (header, *lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if _total_width(widths) <= max_width:
        rows.insert(1, ["-" * width for width in widths])
        return "\n".join(text for row in rows for text in _aligned(row, widths))

    tables = []
    for columns in _blocks(header, rows[1:], max_width, keys):
        titles, *cells = [_select(line, columns) for line in (header, *lines)]
        below = [""] * len(lines)
        tables.append(narrow_table(titles, cells, max_width, flexible=header[1:keys], below=below))
    return "\n\n".join(tables)


def _select(line: Line, columns: Sequence[int]) -> Line:
    return [line[index] for index in columns]


def _blocks(header: Line, rows: Sequence[Line], max_width: int, keys: int) -> list[list[int]]:
    """The columns of tables that fit, by index: the keys in each, and as many others as it takes.

    A column that does not fit beside the keys has a table of its own with them.
    """
    widths = []
    for index, title in enumerate(header):
        width = _column_width(title, [row[index] for row in rows])
        if 0 < index < keys:
            width = min(width, KEY_WIDTH)
        widths.append(width)

    repeated = list(range(keys))
    blocks = [repeated]
    for index in range(keys, len(header)):
        block = [*blocks[-1], index]
        if len(block) > keys + 1 and _total_width([widths[each] for each in block]) > max_width:
            blocks.append([*repeated, index])
        else:
            blocks[-1] = block
    return blocks


def narrow_table(
    header: Line,
    lines: Sequence[Line],
    max_width: int,
    *,
    flexible: Collection[str],
    below: Sequence[str],
) -> str:
    """A table as `aligned_table` draws it, but no line is longer than `max_width` characters.

    Titles take several lines, and then cells: first those of the columns whose titles are
    `flexible`, the widest first. `below` has a text for each row, which follows it, indented, if it
    is not empty.
    """
    rows = [list(map(one_line, line)) for line in lines]
    widths = []
    for index, title in enumerate(header):
        widths.append(_column_width(title, [row[index] for row in rows]))
    surplus = _total_width(widths) - max_width

    # Cells break between words before they break within, and in very narrow columns if nothing
    # else helps. The flexible columns come first.
    preferred = [index for index, title in enumerate(header) if title in flexible]
    everything = list(range(len(header)))
    words = []
    for column in zip(header, *rows, strict=True):
        words.append(max(MIN_WIDTH, *map(_longest_word, column)))
    narrow, tiny = [MIN_WIDTH] * len(header), [1] * len(header)
    steps = (
        *((preferred, words), (preferred, narrow)),
        *((everything, words), (everything, narrow), (everything, tiny)),
    )

    for columns, least in steps:
        while surplus > 0:
            wide = [index for index in columns if widths[index] > least[index]]
            if not wide:
                break
            widths[max(wide, key=lambda index: widths[index])] -= 1
            surplus -= 1

    texts = [*_aligned(header, widths), GAP.join("-" * width for width in widths)]
    for row, text in zip(rows, below, strict=True):
        texts += _aligned(row, widths)
        texts += wrap(one_line(text), max_width, initial_indent=INDENT, subsequent_indent=INDENT)
    return "\n".join(texts)


def _total_width(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _column_width(title: str, cells: Sequence[str]) -> int:
    """The width of the longest cell, or what the title needs to be of a few lines."""
    width = max([1, _longest_word(title), *map(len, cells)])
    while len(_wrapped(title, width)) > TITLE_LINES:
        width += 1
    return width


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _aligned(row: Line, widths: Sequence[int]) -> list[str]:
    """The lines of text that a row takes."""
    cells = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]

    texts = []
    for parts in zip_longest(*cells, fillvalue=""):
        padded = [part.ljust(width) for part, width in zip(parts, widths, strict=True)]
        texts.append(GAP.join(padded).rstrip())
    return texts


def _wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most so many characters; a text that fits stays as it is."""
    if len(text) <= width:
        return [text]
    return wrap(text, width, break_on_hyphens=False) or [""]
