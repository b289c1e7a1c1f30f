"""Colours are for terminals alone, and only where they are wanted."""

import io

import pytest

from prunelab.core.terminal import has_colours, paint, paint_tables
from prunelab.report.text_table import MAX_WIDTH, aligned_table


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_terminal_has_colours_and_a_pipe_has_none():
    assert has_colours(Terminal())
    assert not has_colours(io.StringIO())


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_terminal_that_wants_none_gets_none(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    assert paint("text", "red", Terminal()) == "text"


def test_empty_no_color_counts_as_unset(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")

    assert has_colours(Terminal())


def test_painted_text_ends_its_style():
    assert paint("text", "red", Terminal()) == "\x1b[31mtext\x1b[0m"
    assert paint("", "red", Terminal()) == ""


def test_titles_of_a_table_are_bold_and_nothing_else_is():
    table = aligned_table(["one", "two"], [["1", "2"], ["3", "4"]])
    text = f"before\n\n{table}\n\nafter"

    lines = paint_tables(text, Terminal()).split("\n")

    assert lines[2] == "\x1b[1mone  two\x1b[0m"
    assert lines[3].startswith("\x1b[2m---")
    assert [line for line in lines if "\x1b" not in line] == [
        *("before", "", "1    2", "3    4", "", "after")
    ]


def test_painting_for_a_pipe_changes_nothing():
    text = aligned_table(["one", "two"], [["1", "2"]])

    assert paint_tables(text, io.StringIO()) == text


@pytest.mark.parametrize("columns", [2, 6, 11])
def test_a_wide_table_becomes_several_that_name_their_rows_and_keep_cells_whole(columns):
    header = [f"a long title {index}" for index in range(columns)]
    lines = []
    for row in range(2):
        lines.append([f"a rather long cell {row}.{index}" for index in range(columns)])

    text = aligned_table(header, lines)

    assert max(map(len, text.splitlines())) <= MAX_WIDTH
    tables = text.split("\n\n")
    shown: list[list[str]] = [[], []]
    for table in tables:
        for number, line in enumerate(table.splitlines()[-2:]):
            cells = line.split("  ")
            assert cells[0] == lines[number][0]
            shown[number] += cells[1:]
    assert shown == [line[1:] for line in lines]


def test_a_cell_wider_than_a_terminal_takes_several_lines():
    words = [f"word{index}" for index in range(60)]

    text = aligned_table(["name", "text"], [["a", " ".join(words)]])

    assert max(map(len, text.splitlines())) <= MAX_WIDTH
    assert text.split()[-60:] == words


def test_folded_table_breaks_between_words_before_it_breaks_a_number():
    header = ["setting", *(f"column {index}" for index in range(6))]
    numbers = [f"{index}23,456,789 ± {index}.50" for index in range(6)]

    text = aligned_table(header, [["l1_channel-0.5", *numbers]])

    assert max(map(len, text.splitlines())) <= MAX_WIDTH
    words = text.split()
    for number in numbers:
        assert number.split()[0] in words
