"""A folder of images and a table with the class, and perhaps the split, of each of them."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path

import numpy as np

from prunelab.core.errors import InputError, one_line
from prunelab.core.files import user_path
from prunelab.core.text import name_list
from prunelab.data.dataset import ClassCounts, Shape, SplitData
from prunelab.data.splits import class_size_problems
from prunelab.datasets.image_files import (
    ImageFiles,
    is_image,
    is_leftover,
    is_leftover_folder,
)
from prunelab.datasets.own_images import OwnImages
from prunelab.datasets.table_file import (
    Column,
    Columns,
    TableFile,
    read_columns,
    row_problem,
    sorted_labels,
)

# What tables call the splits. The values are compared in small letters.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class _Row:
    """An image of the table: its path, its class, its split, and the line it stands in."""

    path: str
    label: str
    split: str
    line: int


@dataclass(frozen=True)
class _Listing:
    """The images below a folder, relative to it, and how many files are leftovers."""

    names: list[str]
    leftovers: int


class ImageTable(OwnImages):
    """Images anywhere in a folder (`data.source`), whose labels stand in a table (`data.table`).

    The table has a column of file names, relative to the folder and with or without suffix, a
    column of labels, and perhaps one of splits. The table itself is looked for as it is and within
    the folder. The folders `train`, `test` and the like may also have one each, whose files are
    relative to them. Classes are the labels, sorted, and numbers by value.
    """

    def missing(self) -> list[str]:
        if self._root is None:
            return ["data.source: null; data.table needs the path of the folder with its images"]
        if not self._root.is_dir():
            return [f"data.source: {self._root} is not a folder; it must hold the table's images"]

        if "train" not in {table.split or "train" for table in self._tables}:
            return [
                f"data.table: {self._config.table} is neither a file nor one in {self._root} or in "
                "its folder train; name a .csv or .tsv file"
            ]
        return []

    def class_counts(self) -> ClassCounts:
        problems = self.missing() or self._listed_problems
        if problems:
            raise InputError(problems)

        counts = Counter(row.label for row in self._splits["train"])
        return ClassCounts(
            {name: counts[name] for name in self._class_names},
            has_test="test" in self._splits,
            has_validation="validation" in self._splits,
        )

    def digest(self) -> str:
        """A hash of the tables' bytes, and of the names and sizes of their images."""
        digest = hashlib.sha256()
        for table in self._tables:
            digest.update(table.file.path.read_bytes())
        for row in sorted(self._rows, key=lambda row: row.path):
            name = os.path.relpath(row.path, self._root)
            digest.update(os.fsencode(name) + b"\0%d\n" % Path(row.path).lstat().st_size)
        return digest.hexdigest()

    def read(self) -> SplitData:
        shape = self.info().shape
        for line in self.notes():
            print(one_line(line))

        files = {name: self._files_of(rows, shape) for name, rows in self._splits.items()}
        record = {
            "leftovers": self._listing.leftovers,
            "not_in_table": len(self._surplus),
            "repeated_rows": self._repeated_rows,
            "dropped_files": self._dropped_files,
        }
        return SplitData(
            files["train"], files.get("test"), self._class_names, files.get("validation"), record
        )

    def notes(self) -> list[str]:
        """What was left aside in the folder and in the table, a line each."""
        lines = []
        if self._listing.leftovers:
            count = self._listing.leftovers
            lines.append(f"{self._root}: skipped {count} files that macOS or Windows left there")

        if self._surplus:
            lines.append(
                f"{self._root}: {len(self._surplus)} images are not in {self._config.table}: "
                f"{name_list(self._surplus)}"
            )

        if self._repeated_rows:
            lines.append(
                f"{self._config.table}: {self._repeated_rows} rows repeat another row; each image "
                "counts once"
            )

        if self._dropped_files:
            lines.append(
                f"{self._config.table}: left out {self._dropped_files} files with several labels"
            )
        return lines

    def labelled_files(self) -> Iterator[tuple[str, str]]:
        """Every image's path and class."""
        for row in self._rows:
            yield row.path, row.label

    def _files_of(self, rows: Sequence[_Row], shape: Shape) -> ImageFiles:
        numbers = {name: number for number, name in enumerate(self._class_names)}
        labels = np.array([numbers[row.label] for row in rows], dtype=np.int64)
        return self._image_files([row.path for row in rows], labels, shape)

    @cached_property
    def _tables(self) -> list["_SplitTable"]:
        """The table, or those of the folders `train`, `test` and the like, if each has its own."""
        assert self._config.table is not None
        assert self._root is not None
        path = user_path(self._config.table)
        for place in (path, self._root / path):
            if place.is_file():
                return [_SplitTable(TableFile(place, "data.table"), self._root, None)]

        tables = []
        for folder in sorted(self._root.iterdir()):
            split = SPLIT_NAMES.get(folder.name.lower())
            if split and (folder / path).is_file():
                tables.append(_SplitTable(TableFile(folder / path, "data.table"), folder, split))
        return tables

    def _read_columns(self, table: "_SplitTable") -> Columns:
        columns = [
            Column("data.file_column", self._config.file_column, "file"),
            Column("data.label_column", self._config.label_column, "label"),
        ]
        if self._config.split_column is not None and table.split is None:
            columns.append(
                Column("data.split_column", self._config.split_column, "split", required=False)
            )
        return read_columns(table.file, columns)

    @cached_property
    def _listing(self) -> _Listing:
        assert self._root is not None
        return _list_images(self._root)

    @cached_property
    def _listed_problems(self) -> list[str]:
        """What is wrong with the table: its rows first, then its classes.

        Raises:
            InputError: if it cannot be read.
        """
        problems = self._row_problems()
        if problems:
            return problems

        problems = self._class_problems()
        if problems:
            return problems
        counts = Counter(row.label for row in self._splits["train"])
        return class_size_problems(counts, needed=4 - len(self._splits))

    def _row_problems(self) -> list[str]:
        problems = []
        for table, resolved in self._resolved:
            problems += resolved.columns.problems
            for lines, problem in (
                (resolved.outside, "name a file outside the folder"),
                (resolved.missing, f"name a file that is not in {table.folder}"),
                (resolved.ambiguous, "name several files; write their suffixes"),
                (
                    resolved.unknown_split,
                    "have a split other than train, validation and test in column "
                    f"{self._config.split_column}; data.split_column: null ignores that column",
                ),
            ):
                problems += row_problem(table.file, lines, problem)

        problems += self._contradictions(
            "splits", self._splits_of_files, "Let each file be in one of them"
        )
        if self._config.conflicts == "refuse":
            advice = "Correct them, or set data.conflicts: drop"
            problems += self._contradictions("labels", self._labels_of_files, advice)
        return problems

    def _contradictions(
        self, kind: str, values_of_files: Mapping[str, set[str]], advice: str
    ) -> list[str]:
        """At most one line: the files for which tables have several values."""
        names = []
        for path, values in values_of_files.items():
            if len(values) > 1:
                name = os.path.relpath(path, self._root)
                names.append(f"{name} ({' and '.join(sorted(values))})")

        if not names:
            return []
        return [
            f"{self._name}: {len(names)} files have several {kind}: {name_list(names)}. {advice}"
        ]

    @property
    def _name(self) -> str:
        return f"data.table: {self._config.table}"

    def _class_problems(self) -> list[str]:
        if "train" not in self._splits:
            return [f"{self._name} has no row of the split train"]

        labels: dict[str, set[str]] = {}
        for split, rows in self._splits.items():
            labels[split] = {row.label for row in rows}
        if len(labels["train"]) < 2:
            return [
                f"{self._name}: every image has the same label, {labels['train']}. "
                "At least 2 labels are needed."
            ]

        problems = []
        for present, absent in permutations(labels, 2):
            only_present = sorted(labels[present] - labels[absent])
            if only_present:
                problems.append(
                    f"{self._name}: labels of {present} that {absent} lacks: "
                    f"{name_list(only_present)}"
                )
        return problems

    @cached_property
    def _found_rows(self) -> list[_Row]:
        """The rows of all tables whose file was found."""
        return [row for _, resolved in self._resolved for row in resolved.rows]

    @cached_property
    def _labels_of_files(self) -> dict[str, set[str]]:
        return self._values_of_files(lambda row: row.label)

    @property
    def _splits_of_files(self) -> dict[str, set[str]]:
        return self._values_of_files(lambda row: row.split)

    def _values_of_files(self, value_of: Callable[[_Row], str]) -> dict[str, set[str]]:
        """What the rows of every file say, by its path."""
        values = defaultdict(set)
        for row in self._found_rows:
            values[row.path].add(value_of(row))
        return values

    @property
    def _dropped_files(self) -> int:
        """The number of files that are left out because they have several labels."""
        if self._config.conflicts != "drop":
            return 0
        return sum(len(labels) > 1 for labels in self._labels_of_files.values())

    @cached_property
    def _rows(self) -> list[_Row]:
        """The images of the table once each, without those that are dropped for two labels."""
        rows: dict[tuple[str, str], _Row] = {}
        for row in self._found_rows:
            is_contradicted = len(self._labels_of_files[row.path]) > 1
            if is_contradicted and self._config.conflicts == "drop":
                continue
            rows.setdefault((row.path, row.label), row)
        return list(rows.values())

    @property
    def _repeated_rows(self) -> int:
        distinct = {(row.path, row.label) for row in self._found_rows}
        return len(self._found_rows) - len(distinct)

    @cached_property
    def _surplus(self) -> list[str]:
        """The images in the folder that the table does not name."""
        assert self._root is not None
        named = {row.path for row in self._found_rows}
        paths = {name: str(self._root / name) for name in self._listing.names}
        return [name for name, path in paths.items() if path not in named]

    @cached_property
    def _splits(self) -> dict[str, list[_Row]]:
        splits: dict[str, list[_Row]] = {}
        for name in ("train", "validation", "test"):
            rows = [row for row in self._rows if row.split == name]
            if rows:
                splits[name] = rows
        # With one official split beside training it is the test split, as in folders.
        if "validation" in splits and "test" not in splits:
            splits["test"] = splits.pop("validation")
        return splits

    @cached_property
    def _resolved(self) -> list[tuple["_SplitTable", "_Resolved"]]:
        """Every table with its rows.

        Raises:
            InputError: if one cannot be read.
        """
        resolved = []
        for table in self._tables:
            names = self._listing.names
            if table.split is not None:
                start = f"{table.folder.name}/"
                names = [name.removeprefix(start) for name in names if name.startswith(start)]
            resolved.append((table, _resolve(self._read_columns(table), table, names)))
        return resolved

    @property
    def _class_names(self) -> list[str]:
        return sorted_labels({row.label for row in self._splits["train"]})


@dataclass(frozen=True)
class _SplitTable:
    """A table, the folder that its files are relative to, and the split of all its rows.

    Without a `split` the rows themselves may have one.
    """

    file: TableFile
    folder: Path
    split: str | None


@dataclass(frozen=True)
class _Resolved:
    """The rows whose file was found, and the lines of those with a problem."""

    columns: Columns
    rows: list[_Row]
    outside: list[str]
    missing: list[str]
    ambiguous: list[str]
    unknown_split: list[str]


def _resolve(columns: Columns, table: _SplitTable, names: Sequence[str]) -> _Resolved:
    """Find the file of every row among the images of the table's folder.

    Args:
        columns: with the contents `file`, `label` and perhaps `split`
        table: the table
        names: the images, relative to its folder
    """
    root = table.folder
    known = set(names)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for image in names:
        by_stem[os.path.splitext(image)[0]].append(image)  # noqa: PTH122

    count = len(columns.lines)
    splits = columns.values.get("split", [table.split or "train"] * count)
    resolved = _Resolved(columns, [], [], [], [], [])
    fields = zip(
        columns.values["file"], columns.values["label"], splits, columns.lines, strict=True
    )
    for file, label, split, line in fields:
        name = within(file, root)
        place = f"{line} ({file})"
        split_name = SPLIT_NAMES.get(split.lower())
        if name is None:
            resolved.outside.append(place)
        elif split_name is None:
            resolved.unknown_split.append(f"{line} ({split})")
        elif name in known:
            resolved.rows.append(_Row(str(root / name), label, split_name, line))
        elif len(by_stem[name]) == 1:
            resolved.rows.append(_Row(str(root / by_stem[name][0]), label, split_name, line))
        elif by_stem[name]:
            resolved.ambiguous.append(place)
        else:
            resolved.missing.append(place)
    return resolved


def within(file: str, root: Path) -> str | None:
    """A file of the table relative to the folder; None if it lies outside."""
    path = os.path.normpath(os.path.join(root, file.replace("\\", "/")))  # noqa: PTH118
    relative = os.path.relpath(path, root)
    if relative == ".." or relative.startswith("../"):
        return None
    return relative


def _list_images(root: Path) -> _Listing:
    """The images at any depth below a folder, sorted. Hidden files and folders are ignored."""
    names, leftovers = [], 0
    for parent, folders, files in os.walk(root):
        inside = any(map(is_leftover_folder, Path(parent).relative_to(root).parts))
        folders[:] = [name for name in folders if not name.startswith(".")]

        for file in files:
            if inside or is_leftover(file):
                leftovers += 1
            elif is_image(file):
                names.append(os.path.relpath(os.path.join(parent, file), root))  # noqa: PTH118
    return _Listing(sorted(names), leftovers)
