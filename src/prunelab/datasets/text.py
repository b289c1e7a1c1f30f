"""Texts from tables with a column of texts and one of labels, as token ids of the model's own tokenizer."""

import hashlib
import json
from collections import Counter
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from prunelab.core.errors import InputError
from prunelab.data.dataset import DataConfig, DataInfo, SplitData
from prunelab.data.splits import Split, too_few
from prunelab.datasets.table_file import Table, read_table

ENDINGS = (".tsv", ".csv")
PARTS = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}
VALID = "a .tsv or .csv file, a folder with train.tsv (and validation.tsv, test.tsv), or such a path without _train.tsv"


class TextTable:
    """A table of texts, or up to three: `data.source` is a file, a folder, or what precedes `_train.tsv`.

    In a .tsv a quote is a character like any other; in a .csv it may enclose a field. Classes are the labels, sorted.
    """

    def __init__(self, source: DataConfig):
        self._source = source

    def missing(self) -> list[str]:
        path = self._source.place
        if path is None:
            return [f"data.source: null; text_tsv needs {VALID}"]
        try:
            found = _files(path)
        except InputError as refused:
            return refused.problems
        if not found:
            return [
                f"data.source: {self._source.path} is no table and has no training table; valid: {VALID}"
            ]
        return []

    def damaged(self) -> list[str]:
        if self.missing():
            return []
        try:
            names = self._class_names
        except InputError as refused:
            return refused.problems
        counts = Counter(self._tables["train"].labels)
        return too_few({name: counts[name] for name in names}, needed=4 - len(self._tables))

    def reachable(self) -> bool:
        return False

    def download(self) -> None:
        raise InputError(self.missing())

    def facts(self) -> DataInfo:
        return DataInfo(len(self._class_names), (self._source.tokens,))

    def digest(self) -> str | None:
        """Of the tables' bytes and of what turns them into numbers: the tokenizer's vocabulary and its rules."""
        told = [
            f"{part} {hashlib.sha256(path.read_bytes()).hexdigest()}"
            for part, path in self._paths.items()
        ]
        rules = json.loads(self._tokenizer.backend_tokenizer.to_str())
        for last_use in ("truncation", "padding"):  # left there by the last text that was encoded
            rules.pop(last_use, None)
        told.append(json.dumps(rules, sort_keys=True))
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def read(self) -> SplitData:
        codes = {name: code for code, name in enumerate(self._class_names)}
        splits = {
            part: Split(
                self._encode(table.texts),
                np.array([codes[label] for label in table.labels], dtype=np.int64),
            )
            for part, table in self._tables.items()
        }
        return SplitData(
            splits["train"], splits.get("test"), self._class_names, splits.get("validation")
        )

    def _encode(self, texts: list[str]) -> np.ndarray:
        """Token ids, int64 [N, tokens]: [CLS], the text as far as it fits, [SEP], padding."""
        encoded = self._tokenizer(
            texts,
            max_length=self._source.tokens,
            truncation=True,
            padding="max_length",
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return np.array(encoded["input_ids"], dtype=np.int64)

    @cached_property
    def _tokenizer(self):
        from prunelab.encoders.pretrained import tokenizer  # transformers: seconds to import

        return tokenizer(self._source.weights)

    @cached_property
    def _paths(self) -> dict[str, Path]:
        if missing := self.missing():
            raise InputError(missing)
        return _files(self._source.place or Path())

    @cached_property
    def _tables(self) -> dict[str, Table]:
        tables, problems = {}, []
        for part, path in self._paths.items():
            try:
                tables[part] = read_table(
                    path,
                    text_column=self._source.text_column,
                    label_column=self._source.label_column,
                )
            except InputError as refused:
                problems += refused.problems
        if problems:
            raise InputError(problems)
        return tables

    @cached_property
    def _class_names(self) -> list[str]:
        """The labels in order, numbers by value; they must be the same in all parts."""
        labels = {part: set(table.labels) for part, table in self._tables.items()}
        problems = [
            f"data.source: label {label!r} occurs in {self._paths[has]} but not in {self._paths[lacks]}"
            for one, other in combinations(labels, 2)
            for has, lacks in ((one, other), (other, one))
            for label in sorted(labels[has] - labels[lacks])[:3]
        ]
        if len(labels["train"]) < 2:
            problems.append(
                f"data.source: all of {self._paths['train']} has one label, {labels['train']}; 2 are needed"
            )
        if problems:
            raise InputError(problems)
        try:
            return sorted(
                labels["train"], key=lambda label: (int(label), label)
            )  # 1 and 01 are two labels
        except ValueError:
            return sorted(labels["train"])


def _files(source: Path) -> dict[str, Path]:
    """The tables by part; empty if there is none for training.

    Raises:
        InputError: if a part could be either of two files.
    """
    if source.is_file():
        return {"train": source} if source.suffix in ENDINGS else {}
    stem = f"{source}/" if source.is_dir() else f"{source}_"
    found = {}
    for part, names in PARTS.items():
        there = [
            path
            for name in names
            for ending in ENDINGS
            if (path := Path(f"{stem}{name}{ending}")).is_file()
        ]
        if len(there) > 1:
            raise InputError(
                f"data.source: {' or '.join(map(str, there))}? Only one file can be the {part} part"
            )
        if there:
            found[part] = there[0]
    return found if "train" in found else {}
