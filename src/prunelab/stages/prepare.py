"""Read a data set and write its splits: stratified, as arrays, once for all other stages."""

from pathlib import Path
from typing import Any

from prunelab.artifacts.prepared import save_prepared
from prunelab.config.params import load_params
from prunelab.core.errors import InputError, one_line
from prunelab.core.registry import pick
from prunelab.data.dataset import DataConfig
from prunelab.data.splits import Split, three_way_split
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.imagefolder import share_bit_depth
from prunelab.datasets.manifest import describe, find_duplicates, prepare_params, report_duplicates
from prunelab.stages.entry import run


def main(raw: Path, out: Path) -> None:
    """Prepare the data set of params.yaml, from `data.source` or RAW, into the folder OUT."""
    params = load_params()
    config = DataConfig(
        raw,
        path=params.data.source,
        resize=params.data.resize,
        text_column=params.data.text_column,
        label_column=params.data.label_column,
        tokens=params.data.tokens,
        weights=params.weights,
    )

    dataset = pick(DATASETS, params.dataset, "dataset")(config)
    damaged = dataset.damaged()
    if damaged:
        raise InputError(damaged)
    if dataset.missing():
        dataset.download()
    published = dataset.read()

    split_settings = (
        params.data.test_fraction,
        params.data.validation_fraction,
        params.data.split_seed,
    )
    splits, depth = share_bit_depth(three_way_split(published, *split_settings))
    origin = prepare_params(params.dataset, config, *split_settings)
    origin |= {"digest": dataset.digest()}
    shape = dataset.info().shape

    def describe_written(written: dict[str, Split]) -> dict[str, Any]:
        duplicates = find_duplicates(written)
        for line in [*depth.report(), *report_duplicates(duplicates, splits)]:
            print(one_line(line))
        description = describe(published.class_names, shape, written, duplicates)
        return origin | description | depth.record()

    save_prepared(out, splits, describe_written)
    print(", ".join(f"{name}: {len(split)} examples" for name, split in splits.items()))


if __name__ == "__main__":
    run(main)
