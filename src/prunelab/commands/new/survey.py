"""What one's own data is like: how many examples of which classes, how large, how named."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunelab.core.errors import InputError
from prunelab.core.files import user_path
from prunelab.core.text import name_list
from prunelab.data.dataset import ClassCounts, DataConfig
from prunelab.datasets.datasets import image_source
from prunelab.datasets.image_files import is_image
from prunelab.datasets.images import size_of
from prunelab.datasets.imagetable import within
from prunelab.datasets.table_file import Column, TableFile, read_columns, read_header
from prunelab.datasets.text import TextTable

MAX_MEASURED = 2_000  # images whose size is looked at
MAX_ROWS_TRIED = 200  # of a table, to learn which column has the files
# What tables call their columns, the likeliest name first.
LABEL_NAMES = ("label", "labels", "class", "category", "target", "breed", "species", "diagnosis")
TEXT_NAMES = ("text", "sentence", "content", "review", "comment", "message", "title")
LETTERS_PER_TOKEN = 4  # of English, roughly


@dataclass(frozen=True)
class Survey:
    """What was found.

    Args:
        parameters: keys of `data` that say where everything is
        counts: examples of every class of the official training split
        examples: number of all examples
        sides: shorter sides of the images that were looked at; of texts their lengths in letters
        one_size: (width, height) if all images have it and all were looked at
        unreadable: images without a header that can be read, among those that were looked at
    """

    parameters: dict[str, str | None]
    counts: ClassCounts
    examples: int
    sides: np.ndarray
    one_size: tuple[int, int] | None = None
    unreadable: Sequence[str] = ()


def survey_images(images: str, table: str | None) -> Survey:
    """Look at a folder of class folders, or at a folder of images and a table of their labels.

    Raises:
        InputError: if it cannot be used, with all problems.
    """
    parameters: dict[str, str | None] = {"source": images}
    if table is not None:
        parameters |= {"table": table} | _image_columns(user_path(images), user_path(table))

    config = DataConfig(
        Path(),
        path=images,
        resize=32,  # of any number: sizes may differ
        table=table,
        file_column=parameters.get("file_column") or "file",
        label_column=parameters.get("label_column") or "label",
        split_column=parameters.get("split_column", "split"),
    )
    source = image_source(config)
    problems = source.missing() or source.damaged()
    if problems:
        raise InputError(problems)

    paths = [path for path, _ in source.labelled_files()]
    sizes, unreadable = _sizes(paths)
    if not sizes:
        raise InputError(f"data.source: no image of {images} can be read: {name_list(paths)}")
    one_size = None
    if len(set(sizes)) == 1 and len(sizes) == len(paths):
        one_size = sizes[0]
    sides = np.array([min(size) for size in sizes])
    return Survey(parameters, source.class_counts(), len(paths), sides, one_size, unreadable)


def _sizes(paths: Sequence[str]) -> tuple[list[tuple[int, int]], list[str]]:
    """The sizes of up to `MAX_MEASURED` images, spread over all, and which cannot be read."""
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), MAX_MEASURED)).astype(int)
    sizes, unreadable = [], []
    for index in chosen:
        size = size_of(paths[index], turn=True)
        if size is None:
            unreadable.append(paths[index])
        else:
            sizes.append(size)
    return sizes, unreadable


def _image_columns(images: Path, table: Path) -> dict[str, str | None]:
    """Which columns of a table have the files, the labels and the splits."""
    if not table.is_file():
        table = images / table
    if not table.is_file():
        images, table = images / "train", images / "train" / table.name
    if not images.is_dir() or not table.is_file():
        return {}  # which the data set reports

    header = read_header(table)

    # Classes called 0, 1, ... look like the files 0.jpg, 1.jpg, ..., so labels are no files.
    candidates = [name for name in header if name and name.lower() not in LABEL_NAMES]
    known = _image_names(images)
    found = {name: _share_of_files(table, name, images, known) for name in candidates}
    file_column = max(found, key=lambda name: found[name], default="")
    if not file_column or found[file_column] == 0:
        raise InputError(
            f"data.table: no column of {table} names images in {images}; its columns: "
            f"{', '.join(map(repr, header))}"
        )

    label_column = _label_column(table, header, file_column)
    split_column = "split" if "split" in header else None
    return {
        "file_column": file_column,
        "label_column": label_column,
        "split_column": split_column,
    }


def _share_of_files(table: Path, column: str, images: Path, known: set[str]) -> float:
    """The share of a column's first values that are `known` names of images in a folder."""
    file = TableFile(table, "data.table")
    try:
        values = read_columns(file, [Column("data.file_column", column, "file")]).values["file"]
    except InputError:
        return 0.0
    tried = values[:MAX_ROWS_TRIED]
    return sum(within(value, images) in known for value in tried) / max(len(tried), 1)


def _image_names(images: Path) -> set[str]:
    """The images below a folder, relative to it, with and without their suffixes."""
    names = set()
    for parent, _, files in os.walk(images):
        for file in files:
            if is_image(file):
                name = os.path.relpath(os.path.join(parent, file), images)  # noqa: PTH118
                names |= {name, os.path.splitext(name)[0]}  # noqa: PTH122
    return names


def _label_column(table: Path, header: Sequence[str], *others: str) -> str:
    """The column of labels: by its name, or the only one that is left.

    Raises:
        InputError: if that does not decide.
    """
    named = _first_called(header, LABEL_NAMES)
    if named:
        return named

    left = [name for name in header if name and name not in (*others, "split")]
    if len(left) == 1:
        return left[0]
    raise InputError(
        f"data.table: which column of {table} has the labels? Call it label; its columns: "
        f"{', '.join(map(repr, header))}"
    )


def _first_called(header: Sequence[str], names: Sequence[str]) -> str:
    """The column with the first of these names that the header has, in any case; empty if none."""
    by_lower_case = {column.lower(): column for column in header}
    for name in names:
        if name in by_lower_case:
            return by_lower_case[name]
    return ""


def survey_texts(table: str) -> Survey:
    """Look at a table of texts, or at several, as `text_tsv` reads them.

    Raises:
        InputError: if it cannot be used, with all problems.
    """
    parameters: dict[str, str | None] = {"source": table}
    file = user_path(table)
    if file.is_file():
        header = read_header(file)
        text_column = _first_called(header, TEXT_NAMES)
        if text_column:
            parameters["text_column"] = text_column
            parameters["label_column"] = _label_column(file, header, text_column)

    text_column = parameters.get("text_column") or "text"
    label_column = parameters.get("label_column") or "label"
    source = TextTable(
        DataConfig(Path(), path=table, text_column=text_column, label_column=label_column)
    )
    problems = source.missing() or source.damaged()
    if problems:
        raise InputError(problems)

    counts = source.class_counts()
    examples = sum(counts.train.values())
    return Survey(parameters, counts, examples, source.lengths())


def describe(survey: Survey, kind: str) -> str:
    """What was found, in a line."""
    counts = Counter(survey.counts.train)
    few = min(counts.values())
    many = max(counts.values())
    classes = f"{len(counts)} classes of {few:,} to {many:,} for training"
    if few == many:
        classes = f"{len(counts)} classes of {few:,} for training"
    low, middle, high = np.percentile(survey.sides, [5, 50, 95]).astype(int)
    what = "pixels on the shorter side" if kind == "images" else "letters"
    size = f"{low} to {high} {what}, {middle} in the middle"

    official = []
    if survey.counts.has_validation:
        official.append("validation")
    if survey.counts.has_test:
        official.append("test")
    splits = ""
    if official:
        splits = f", official split of {' and '.join(official)}"
    return f"{survey.examples:,} {kind}, {classes}{splits}; {size}"
