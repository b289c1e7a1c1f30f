"""Read a data set and write its splits: stratified, as arrays, each once and for all."""

from pathlib import Path
from typing import Any

from prunelab.artifacts.prepared import save_prepared
from prunelab.config.params import load_params
from prunelab.core.errors import InputError, one_line
from prunelab.core.registry import pick
from prunelab.data.dataset import DataConfig
from prunelab.data.splits import Split, three_way
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.manifest import describe, find_duplicates, prepare_params, report_duplicates
from prunelab.stages.entry import run


def main(raw: Path, out: Path) -> None:
    """Prepare the data set of params.yaml from `data.source` or the folder RAW into the folder OUT."""
    params = load_params()
    source = DataConfig(
        raw,
        path=params.data.source,
        resize=params.data.resize,
        text_column=params.data.text_column,
        label_column=params.data.label_column,
        tokens=params.data.tokens,
        weights=params.weights,
    )
    dataset = pick(DATASETS, params.dataset, "dataset")(source)
    if damaged := dataset.damaged():
        raise InputError(damaged)
    if dataset.missing():
        dataset.download()
    published = dataset.read()
    test_fraction, validation_fraction = params.data.test_fraction, params.data.validation_fraction
    parts = three_way(published, test_fraction, validation_fraction, params.data.split_seed)
    origin = prepare_params(
        params.dataset, source, test_fraction, validation_fraction, params.data.split_seed
    )
    origin |= {"digest": dataset.digest()}
    shape = dataset.facts().shape

    def told(splits: dict[str, Split]) -> dict[str, Any]:
        twins = find_duplicates(splits)
        for line in report_duplicates(twins, parts):
            print(one_line(line))
        return origin | describe(published.class_names, shape, splits, twins)

    save_prepared(out, parts, told)
    print(", ".join(f"{name}: {len(part)} examples" for name, part in parts.items()))


if __name__ == "__main__":
    run(main)
