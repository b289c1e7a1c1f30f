"""Made-up results for the page."""

from prunelab.page.page import ReportData

METHODS = ("random_unstructured", "l1_unstructured", "random_channel", "l1_channel")
RATIOS = (0.5, 0.8, 0.95)
LAYERS = ("conv1", "layer1.0.conv1", "linear")
BATCH_SIZES = (1, 64)


def metrics(accuracy: float, kept: float, *, thinner: bool) -> dict:
    """The metrics of a configuration that keeps this share of its weights.

    `thinner` says whether channels were removed rather than weights masked.
    """
    values = {
        "accuracy": accuracy,
        "accuracy_ci95": 0.01,
        "accuracy_drop": 0.99 - accuracy,
        "accuracy_drop_ci95": 0.02,
        "accuracy_pruned": accuracy / 2,
        "accuracy_pruned_ci95": 0.1,
        "accuracy_top5": 0.999,
        "worst_class_drop": 0.1,
        "calibration_error": 0.02,
        "sparsity": 1 - kept,
        "params": 1000,
        "params_nonzero": int(1000 * kept),
        "params_ratio": 1.0,
        "macs": 5000,
        "macs_ratio": 1.0,
        "size_compressed_bytes": int(3000 * kept),
        "seeds": 3,
        "imported": 0,
    }
    if thinner:
        values |= {"params_ratio": 1 / kept, "macs": int(5000 * kept), "macs_ratio": 1 / kept}
    return values


def dense_metrics() -> dict:
    return metrics(0.99, 1.0, thinner=False)


def point(method: str, ratio: float) -> dict:
    """A row of the trade-off."""
    cell = {
        "method": method,
        "ratio": ratio,
        "key": f"{method}-{ratio}",
        "same_as": "",
        "colour": "#000000",
    }
    return cell | metrics(0.99 - ratio / 10, 1 - ratio, thinner="channel" in method)


def details() -> dict:
    layer = {
        "width": 8.0,
        "width_dense": 16,
        "weights_dense": 100,
        "weights_nonzero": 40,
        "sparsity": 0.6,
    }
    return {
        "measures": [
            {"measure": "f1_macro", "n": 3, "mean": 0.9, "sd": 0.01, "ci95": 0.02},
            {"measure": "loss", "n": 1, "mean": 1},
        ],
        "layers": [{"layer": name, **layer} for name in LAYERS],
        "weights": {"limit": 1.0, "zeros": 5, "counts": [1, 5, 9, 5, 1]},
    }


def latency_rows(names: list[str]) -> list[dict]:
    rows = []
    for index, name in enumerate(names):
        for batch_size in BATCH_SIZES:
            row = {
                "name": name,
                "backend": "eager",
                "precision": "fp32",
                "batch_size": batch_size,
                "latency_ms_p50": 2.0 + index / 10,
                "latency_ms_quantiles": [1 + q / 10 + index / 10 for q in range(21)],
                "faster": 1.1,
                "faster_low": 1.05,
                "faster_high": 1.15,
                "told": "1.10x (1.05 to 1.15)",
            }
            rows.append(row)
    return rows


def operator_rows(names: list[str]) -> list[dict]:
    times = {"calls": 1.0, "cpu_ms": 1.0, "cuda_ms": 0.0, "batch_size": 64}
    rows = []
    for name in names:
        rows.append({"name": name, "operator": "aten::convolution", **times})
        rows.append({"name": name, "operator": "others", **times})
    return rows


def training_rows() -> list[dict]:
    accuracies = {"accuracy": 0.5, "validation_accuracy": 0.6}
    rows = []
    for name in ("dense", "l1_channel"):
        for epoch in (1, 2):
            rows.append({"name": name, "group": "fine-tuning", "epoch": epoch, **accuracies})
    return rows


def sensitivity_record() -> dict:
    rows = []
    for granularity in ("weight", "channel"):
        for layer in (*LAYERS, "all"):
            for ratio in (0.5, 0.9):
                row = {"granularity": granularity, "layer": layer, "ratio": ratio}
                rows.append(row | {"removed": ratio, "accuracy": 1 - ratio / 2})
    return {"accuracy": 0.99, "skipped": {"head": "a network has no heads"}, "rows": rows}


def report_data() -> ReportData:
    """Everything that the page shows, with names that must not break it."""
    points = [point(method, ratio) for method in METHODS for ratio in RATIOS]
    names = ["dense", *(each["key"] for each in points)]

    return ReportData(
        title="</script> & a network on <data>",
        facts={"data": "digits", "measured on": "a machine"},
        dense=dense_metrics(),
        points=points,
        details=dict.fromkeys(names, details()),
        training=training_rows(),
        confusion=[
            {"actual": 0, "predicted": 0, "count": 5},
            {"actual": 1, "predicted": 0, "count": 1},
        ],
        classes=["cat", "</script>dog"],
        sensitivity=sensitivity_record(),
        speed={"latency": latency_rows(names), "operators": operator_rows(names)},
    )
