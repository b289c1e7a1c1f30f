"""Texts and labels from table files, as token ids of the model's own tokenizer."""

import hashlib
import json
from collections import Counter
from contextlib import suppress
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prunelab.core.errors import InputError, one_line
from prunelab.data.dataset import ClassCounts, DataConfig, DataInfo, SplitData
from prunelab.data.splits import Split, class_size_problems
from prunelab.datasets.table_file import QUOTES_HINT, Table, read_table, sorted_labels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SUFFIXES = (".tsv", ".csv")
# The splits, and the file names that each may have.
FILE_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "dev"),
    "test": ("test",),
}
VALID_SOURCES = (
    "a .tsv or .csv file, a folder with train.tsv (and validation.tsv, test.tsv), "
    "or such a path without _train.tsv"
)
MAX_LABELS_NAMED = 3  # of two tables that differ


class TextTable:
    """A table of texts, or up to three: `data.source` is a file, a folder, or what precedes `_train.tsv`.

    Up to three tables are the official splits. Classes are the labels, sorted. `table_file`
    describes the format.
    """  # noqa: E501 (`prunelab list` prints the first line)

    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def missing(self) -> list[str]:
        path = self._config.place
        if path is None:
            return [f"data.source: null; text_tsv needs {VALID_SOURCES}"]

        try:
            paths = _table_paths(path)
        except InputError as error:
            return error.problems

        if not paths:
            return [
                f"data.source: {self._config.path} is not a table and has no training table; "
                f"valid: {VALID_SOURCES}"
            ]
        return []

    def damaged(self) -> list[str]:
        if self.missing():
            return []
        try:
            class_counts = self.class_counts()
        except InputError as error:
            return error.problems

        return class_size_problems(class_counts.train, needed=4 - len(self._tables))

    def reachable(self) -> bool:
        return False

    def download(self) -> None:
        raise InputError(self.missing())

    def info(self) -> DataInfo:
        return DataInfo(len(self._class_names), (self._config.tokens,))

    def class_counts(self) -> ClassCounts:
        label_counts = Counter(self._tables["train"].labels)
        return ClassCounts(
            {name: label_counts[name] for name in self._class_names},
            has_test="test" in self._tables,
            has_validation="validation" in self._tables,
        )

    def lengths(self) -> np.ndarray:
        """The number of letters of every text for training, int64 [N]."""
        return np.array([len(text) for text in self._tables["train"].texts], dtype=np.int64)

    def digest(self) -> str | None:
        """A hash of the tables' bytes and of the tokenizer's vocabulary and rules."""
        lines = []
        for split, path in self._paths.items():
            lines.append(f"{split} {hashlib.sha256(path.read_bytes()).hexdigest()}")

        rules = json.loads(self._tokenizer.backend_tokenizer.to_str())
        # The tokenizer keeps these settings from the last text that it encoded.
        rules.pop("truncation", None)
        rules.pop("padding", None)
        lines.append(json.dumps(rules, sort_keys=True))

        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def read(self) -> SplitData:
        self._report_quotes()

        class_numbers = {name: number for number, name in enumerate(self._class_names)}
        splits = {}
        for split, table in self._tables.items():
            labels = [class_numbers[label] for label in table.labels]
            splits[split] = Split(self._encode(table.texts), np.array(labels, dtype=np.int64))

        return SplitData(
            train=splits["train"],
            test=splits.get("test"),
            class_names=self._class_names,
            validation=splits.get("validation"),
        )

    def _report_quotes(self) -> None:
        """Say that quotes are kept where they look like those that enclose a field of a .csv."""
        for split, table in self._tables.items():
            if table.is_quoted:
                continue
            count = sum(map(_looks_enclosed, table.texts))
            if count:
                print(
                    one_line(
                        f"{self._paths[split]}: {count} texts stand in quotes, with doubled quotes "
                        f"within them, and keep both; {QUOTES_HINT}"
                    )
                )

    def _encode(self, texts: list[str]) -> np.ndarray:
        return encode(self._tokenizer, texts, self._config.tokens)

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerFast":
        from prunelab.encoders.pretrained import tokenizer  # transformers takes seconds to import

        loaded: PreTrainedTokenizerFast = tokenizer(self._config.weights)
        return loaded

    @cached_property
    def _paths(self) -> dict[str, Path]:
        missing = self.missing()
        if missing:
            raise InputError(missing)
        return _table_paths(self._config.place or Path())

    @cached_property
    def _tables(self) -> dict[str, Table]:
        """The tables by split.

        Raises:
            InputError: with the problems of all tables.
        """
        tables, problems = {}, []
        for split, path in self._paths.items():
            try:
                tables[split] = self._read_table(path)
            except InputError as error:
                problems += error.problems
        if problems:
            raise InputError(problems)

        # Where one .tsv needs quotes that enclose fields, the others were written alike.
        tsv_splits = [split for split, path in self._paths.items() if path.suffix == ".tsv"]
        if any(tables[split].is_quoted for split in tsv_splits):
            for split in tsv_splits:
                with suppress(InputError):
                    tables[split] = self._read_table(self._paths[split], is_quoted=True)
        return tables

    def _read_table(self, path: Path, *, is_quoted: bool = False) -> Table:
        return read_table(
            path,
            text_column=self._config.text_column,
            label_column=self._config.label_column,
            is_quoted=is_quoted,
        )

    @cached_property
    def _class_names(self) -> list[str]:
        """The labels, sorted. Numbers are sorted by value.

        Raises:
            InputError: if the splits have different labels, or training has fewer than two.
        """
        labels = {split: set(table.labels) for split, table in self._tables.items()}

        problems = self._label_differences(labels)
        if len(labels["train"]) < 2:
            problems.append(
                f"data.source: every row of {self._paths['train']} has the same label, "
                f"{labels['train']}. At least 2 labels are needed."
            )
        if problems:
            raise InputError(problems)

        return sorted_labels(labels["train"])

    def _label_differences(self, labels: dict[str, set[str]]) -> list[str]:
        """One line for each label of one split that another split does not have."""
        problems = []
        for present, absent in permutations(labels, 2):
            only_present = sorted(labels[present] - labels[absent])
            for label in only_present[:MAX_LABELS_NAMED]:
                problems.append(
                    f"data.source: label {label!r} occurs in {self._paths[present]} "
                    f"but not in {self._paths[absent]}"
                )
        return problems


def encode(tokenizer: "PreTrainedTokenizerFast", texts: list[str], tokens: int) -> np.ndarray:
    """Token ids, int64 [N, tokens]: [CLS], the text truncated to fit, [SEP], padding."""
    encoded = tokenizer(
        texts,
        max_length=tokens,
        truncation=True,
        padding="max_length",
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    return np.array(encoded["input_ids"], dtype=np.int64)


def _looks_enclosed(text: str) -> bool:
    within = text[1:-1]
    return text[:1] == text[-1:] == '"' and '""' in within and '"' not in within.replace('""', "")


def _table_paths(source: Path) -> dict[str, Path]:
    """The tables by split; empty if there is no training table.

    Raises:
        InputError: if two files could be the same split.
    """
    if source.is_file():
        return {"train": source} if source.suffix in SUFFIXES else {}

    stem = f"{source}/" if source.is_dir() else f"{source}_"
    paths = {}
    for split, names in FILE_NAMES.items():
        candidates = [Path(f"{stem}{name}{suffix}") for name in names for suffix in SUFFIXES]
        existing = [path for path in candidates if path.is_file()]
        if len(existing) > 1:
            raise InputError(
                f"data.source: {' and '.join(map(str, existing))} could both be the {split} split. "
                "Keep only one of them."
            )
        if existing:
            paths[split] = existing[0]

    if "train" not in paths:
        return {}
    return paths
