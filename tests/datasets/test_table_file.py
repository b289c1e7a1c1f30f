"""Tables as spreadsheets and data frames write them: separators, quotes, line breaks."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.damage import outcome
from hypothesis import given
from hypothesis import strategies as st

from prunelab.core.errors import InputError
from prunelab.data.dataset import DataConfig
from prunelab.datasets.table_file import Table, read_table
from prunelab.datasets.text import TextTable

ROWS = [("good", "a fine film"), ("bad", "a dull film")]


def write(path: Path, rows: Sequence[Sequence[str]], **style: object) -> Path:
    """Write a table as data frames do, with quotes where needed, unless `style` differs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **style).writerows(rows)
    return path


def read(path: Path, **options: bool) -> Table:
    return read_table(path, text_column="text", label_column="label", **options)


# A lone carriage return is left out, because csv.writer does not quote it.
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0\r")
TEXTS = st.text(CHARACTERS, min_size=1, max_size=12)
WORDS = TEXTS | st.sampled_from(
    ['"', 'a "b"', "a\nb", "a\r\nb", "a\tb", "a;b", "a,b", "'", "a\n\nb"]
)
FULL_WORDS = WORDS.filter(str.strip)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@given(rows=st.lists(st.tuples(FULL_WORDS, FULL_WORDS, WORDS), min_size=1, max_size=5))
def test_a_csv_is_read_whatever_separates_its_fields(folder, separator, quoting, line_end, rows):
    path = folder / "t.csv"
    table = [("label", "text", "note"), *rows]
    write(path, table, delimiter=separator, quoting=quoting, lineterminator=line_end)

    read_back = read(path)

    assert read_back.labels == [label.strip() for label, _, _ in rows]
    assert read_back.texts == [text.strip() for _, text, _ in rows]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@given(
    rows=st.lists(st.tuples(FULL_WORDS, FULL_WORDS, WORDS), max_size=5),
    place=st.integers(0, 5),
)
def test_a_tsv_with_quoted_line_breaks_is_read_as_it_was_written_or_is_an_error(
    folder, quoting, rows, place
):
    rows = [*rows[:place], ("x", "two\nlines", "-"), *rows[place:]]
    path = folder / "t.tsv"
    table = [("label", "text", "note"), *rows]
    write(path, table, delimiter="\t", quoting=quoting)

    read_back = outcome(lambda: read(path))

    # Only tabs beside line breaks within a text can make its lines look like rows.
    if read_back is None:
        assert quoting == csv.QUOTE_MINIMAL
        assert any("\t" in cell for row in rows for cell in row)
        return
    assert read_back.labels == [label.strip() for label, _, _ in rows]
    assert read_back.texts == [text.strip() for _, text, _ in rows]


def test_quotes_of_a_tsv_that_enclose_whole_rows_are_characters(tmp_path):
    rows = [("good", '"quoted from'), *ROWS, ("a quote",), ("bad", 'to here"')]
    path = write(
        tmp_path / "t.tsv",
        [("label", "text"), *rows],
        **{"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None},
    )

    with pytest.raises(InputError) as error:
        read(path)

    uneven, advice = error.value.problems
    assert "1 rows do not have the 2 fields of the header: line 5 (1)" in uneven
    assert "has quotes; if quotes enclose its fields, let its name end with .csv" in advice


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_that_excel_names_in_the_first_line_counts(tmp_path, ending, separator):
    path = write(tmp_path / f"t.{ending}", [("label", "text"), *ROWS], delimiter=separator)
    path.write_text(f"\ufeffsep={separator}\r\n{path.read_text()}")

    assert read(path).texts == ["a fine film", "a dull film"]

    path.write_text(path.read_text() + f"good{separator}\n")
    with pytest.raises(InputError, match="no text in column text: line 5"):
        read(path)


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_columns_are_named_as_the_right_separator_gives_them(tmp_path, ending):
    path = write(tmp_path / f"t.{ending}", [("Label", "Text", "Note"), *ROWS], delimiter=";")

    with pytest.raises(InputError, match="no column 'text'; its columns: 'Label', 'Text', 'Note'"):
        read(path)


def test_a_header_without_a_separator_is_an_error_that_names_the_known_ones(tmp_path):
    path = write(tmp_path / "t.csv", [("label", "text"), *ROWS], delimiter=":")

    with pytest.raises(InputError, match="its columns: 'label:text'; fields are separated by"):
        read(path)


def test_tables_of_one_data_set_are_read_alike(tmp_path):
    """Only one of the two has a line break, and both were written by the same program."""
    quote = 'a "fine" film'
    style = {"delimiter": "\t"}
    write(tmp_path / "train.tsv", [("label", "text"), *ROWS, ("good", "two\nlines")], **style)
    write(tmp_path / "test.tsv", [("label", "text"), ("good", quote), ROWS[1]], **style)

    dataset = TextTable(DataConfig(tmp_path, path=str(tmp_path)))

    assert dataset._tables["train"].texts[-1] == "two\nlines"
    assert dataset._tables["test"].texts == [quote, "a dull film"]


def test_quotes_that_a_tsv_keeps_are_reported_if_they_look_like_those_of_a_csv(tmp_path, capsys):
    rows = [("good", 'a "fine" film'), ("bad", "a dull film")] * 3
    path = write(tmp_path / "t.tsv", [("label", "text"), *rows], delimiter="\t")
    renamed = write(tmp_path / "t.csv", [("label", "text"), *rows], delimiter="\t")

    TextTable(DataConfig(tmp_path, path=str(path), tokens=8)).read()

    assert f"{path}: 3 texts stand in quotes" in capsys.readouterr().out
    assert read(path).texts[0] == '"a ""fine"" film"'
    assert read(renamed).texts[0] == 'a "fine" film'

    TextTable(DataConfig(tmp_path, path=str(renamed), tokens=8)).read()

    assert capsys.readouterr().out == ""
