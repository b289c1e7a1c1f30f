"""Read a data set and write its splits: stratified, as arrays, once for all other stages."""

from pathlib import Path
from typing import Any

from prunelab.artifacts.prepared import save_prepared
from prunelab.config.params import Params, load_params
from prunelab.core.errors import InputError, one_line
from prunelab.core.registry import pick
from prunelab.data.dataset import Dataset, SplitData
from prunelab.data.splits import Split, three_way_split
from prunelab.datasets.conflicts import Conflicts, find_conflicts
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.image_files import Reading, leave_out
from prunelab.datasets.manifest import (
    data_config,
    describe,
    find_duplicates,
    hash_inputs,
    interpolation_record,
    prepare_params,
    report_duplicates,
)
from prunelab.stages.entry import run


class _ContradictionError(Exception):
    """Equal images with different labels were found, which the parameters leave out."""

    def __init__(self, conflicts: Conflicts) -> None:
        super().__init__()
        self.conflicts = conflicts


def main(raw: Path, out: Path) -> None:
    """Prepare the data set of params.yaml, from `data.source` or RAW, into the folder OUT."""
    params = load_params()
    dataset = pick(DATASETS, params.dataset, "dataset")(data_config(params, raw))
    damaged = dataset.damaged()
    if damaged:
        raise InputError(damaged)
    if dataset.missing():
        dataset.download()
    published = dataset.read()

    # What must be left out is known only once everything was decoded. Then the splits are drawn
    # again without it, which happens at most once for each of the two reasons.
    preparation = _Preparation(params, dataset, out)
    while True:
        try:
            counts = preparation.write(published)
            break
        except _ContradictionError as found:
            published = preparation.drop(published, found.conflicts)
        except InputError as error:
            if not preparation.may_leave_out_failures():
                raise InputError([*error.problems, *preparation.advice()]) from None
            published = preparation.leave_out_failures(published)

    print(", ".join(f"{name}: {count} examples" for name, count in counts.items()))


class _Preparation:
    """Writes the splits of a data set, and knows what was left out of them."""

    def __init__(self, params: Params, dataset: Dataset, out: Path) -> None:
        self._params = params
        self._dataset = dataset
        self._out = out
        self._reading = Reading({}, turn=False)
        self._unreadable: set[str] = set()
        self._dropped: Conflicts | None = None

    def write(self, published: SplitData) -> dict[str, int]:
        """Write all splits and dataset.json, and return the number of examples of each split.

        Raises:
            InputError: if they cannot be split, decoded or written.
            _ContradictionError: if examples must be left out first.
        """
        params = self._params
        parts = three_way_split(
            published,
            params.data.test_fraction,
            params.data.validation_fraction,
            params.data.split_seed,
        )
        self._reading = Reading(parts, turn=params.data.exif == "apply")
        splits = self._reading.splits

        def describe_written(written: dict[str, Split]) -> dict[str, Any]:
            hashes = hash_inputs(written)
            conflicts = find_conflicts(written, hashes, splits, published.class_names)
            self._settle(conflicts)

            duplicates = find_duplicates(written, hashes)
            reported = [*self._reading.report(), *report_duplicates(duplicates, splits)]
            for line in reported:
                print(one_line(line))

            shape = self._dataset.info().shape
            description = describe(published.class_names, shape, written, duplicates)
            return {
                **prepare_params(self._params),
                "digest": self._dataset.digest(),
                **description,
                **self._record(published, conflicts),
                **interpolation_record(params.data.interpolation),
            }

        save_prepared(self._out, splits, describe_written)
        return {name: len(split) for name, split in splits.items()}

    def _settle(self, conflicts: Conflicts) -> None:
        """Say what contradicts itself, unless it is refused or must be left out first."""
        if not conflicts.groups:
            return

        choice = self._params.data.conflicts
        if choice == "drop":
            if not self._reading.is_of_images:
                raise InputError(
                    "data.conflicts: drop leaves out image files, and this data set has none; "
                    "set it to keep"
                )
            raise _ContradictionError(conflicts)

        # In tables of texts and in published data, nobody can tell what is right.
        if choice == "refuse" and self._reading.is_of_images:
            conflicts.require_few()
        for line in conflicts.report():
            print(one_line(line))

    def _record(self, published: SplitData, conflicts: Conflicts) -> dict[str, Any]:
        """What dataset.json says besides the splits."""
        record = {**published.record, **self._reading.record(), **conflicts.record()}
        if self._reading.is_of_images:
            record["unreadable"] = len(self._unreadable)
            record["exif"] = self._params.data.exif  # model files of these images keep it
        if self._dropped:
            record |= self._dropped.record()
            record["conflicts"]["dropped"] = len(self._dropped.names())
        return record

    def drop(self, published: SplitData, conflicts: Conflicts) -> SplitData:
        """The data set without the examples that contradict each other."""
        for line in conflicts.report():
            print(one_line(line))
        print(f"left out {len(conflicts.names())} images with contradicting labels")
        self._dropped = conflicts
        return leave_out(published, conflicts.names())

    def may_leave_out_failures(self) -> bool:
        """Whether images could not be decoded, and no more than `data.unreadable` of all."""
        failures = len(self._reading.failures)
        total = sum(len(split) for split in self._reading.splits.values())
        return 0 < failures <= self._params.data.unreadable * total

    def advice(self) -> list[str]:
        """What to do about images that cannot be decoded, if there are any."""
        failures = len(self._reading.failures)
        if not failures:
            return []
        return [
            f"data.unreadable: {failures} images cannot be decoded, more than the share "
            f"{self._params.data.unreadable:g} of all that may be left out. Remove them, or raise "
            "data.unreadable"
        ]

    def leave_out_failures(self, published: SplitData) -> SplitData:
        """The data set without the images that could not be decoded."""
        failures = self._reading.failures
        self._unreadable |= failures
        print(one_line(f"left out {len(failures)} images that cannot be decoded"))
        for path in sorted(failures)[:5]:
            print(one_line(f"  {path}"))
        return leave_out(published, failures)


if __name__ == "__main__":
    run(main)
