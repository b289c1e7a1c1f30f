"""What `prunelab repro` prints at its end, from rows with results that are known."""

from itertools import permutations
from pathlib import Path

from prunelab.commands.repro.summary import best_rows, summary
from prunelab.core.files import write_json
from prunelab.report.read_results import METRICS

PIPELINE = """
stages:
  train_base: {cmd: x, outs: [models/base]}
  plot: {cmd: x, outs: [metrics/table.md, plots/tradeoff.json]}
  report: {cmd: x, outs: [plots/report.html]}
"""
STAGES = ["train_base", "plot", "report"]


def row(name: str, drop: float, half_width: float, macs: int, size: int = 1000) -> dict:
    numbers = dict.fromkeys(METRICS, 1.0) | {"ratio": 0.5, "macs_ratio": 1000 / macs}
    numbers |= {"accuracy_drop": drop, "accuracy_drop_ci95": half_width}
    numbers |= {"macs": macs, "size_compressed_bytes": size, "seeds": 3}
    return {"method": name, "same_as": "", **numbers}


def names(rows: list[dict]) -> list[str]:
    return [row["method"] for row in rows]


def test_best_rows_lose_least_for_their_cost_in_any_order_of_rows():
    rows = [
        row("accurate", 0.00, 0.01, 900),
        row("as accurate, more MACs", 0.01, 0.00, 950),
        row("small", 0.02, 0.01, 300),
        row("small and worse", 0.03, 0.01, 400),
        row("smallest", 0.10, 0.01, 100),
    ]

    for order in permutations(rows):
        assert names(best_rows(list(order))) == ["accurate", "small", "smallest"]


def test_a_wide_interval_counts_as_the_loss_that_it_allows():
    rows = [row("sure", 0.02, 0.01, 500), row("unsure", 0.01, 0.10, 500)]

    assert names(best_rows(rows)) == ["sure"]


def test_masks_alone_are_compared_by_their_compressed_size():
    rows = [row("a", 0.01, 0.0, 1000, 800), row("b", 0.02, 0.0, 1000, 200)]

    assert names(best_rows(rows)) == ["a", "b"]


def write_results(folder: Path) -> None:
    (folder / "dvc.yaml").write_text(PIPELINE)
    write_json(folder / "plots/tradeoff.json", [row("l1", 0.0125, 0.01, 500)])
    (folder / "metrics").mkdir()
    for name in ("metrics/table.md", "plots/report.html"):
        (folder / name).write_text("")


def test_summary_shows_the_best_rows_and_where_the_page_is(tmp_path):
    write_results(tmp_path)

    text = summary(tmp_path, made=STAGES, unchanged=["code", "prepare"], seconds=12.3)

    assert text.startswith("all 5 stages are up to date: 3 were made in 12 s\n")
    assert "2.25 points" in text
    assert "2.00x" in text
    assert "plots/report.html" in text


def test_summary_of_some_stages_shows_no_results_that_others_made_before(tmp_path):
    write_results(tmp_path)

    text = summary(tmp_path, made=["train_base"], unchanged=["prepare"], seconds=12.3)
    assert text == "all 2 stages are up to date: 1 was made in 12 s"

    text = summary(tmp_path, made=["plot"], unchanged=[], seconds=12.3)
    assert text.startswith("1 stage is up to date: 1 was made in 12 s\n")
    assert "2.25 points" in text
    assert "report.html" not in text


def test_summary_copes_with_results_that_are_missing_or_damaged(tmp_path):
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    expected = "all 3 stages are up to date: 3 were made in 12 s"
    assert summary(tmp_path, made=STAGES, unchanged=[], seconds=12.3) == expected

    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/tradeoff.json").write_text('[{"ratio": "x"}]')

    assert summary(tmp_path, made=STAGES, unchanged=[], seconds=12.3) == expected


def test_nothing_new_is_one_line(tmp_path):
    text = summary(tmp_path, made=[], unchanged=STAGES, seconds=1)
    assert text == "all 3 stages are up to date"
