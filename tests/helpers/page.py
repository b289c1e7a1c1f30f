"""Results for a page, made up."""

from prunelab.page.page import ReportData

METHODS, RATIOS = (
    ("random_unstructured", "l1_unstructured", "random_channel", "l1_channel"),
    (0.5, 0.8, 0.95),
)


LAYERS = ("conv1", "layer1.0.conv1", "linear")


def metrics(accuracy: float, kept: float, thin: bool) -> dict:
    return {
        "accuracy": accuracy, "accuracy_ci95": 0.01, "accuracy_drop": 0.99 - accuracy, "accuracy_drop_ci95": 0.02,
        "accuracy_pruned": accuracy / 2, "accuracy_pruned_ci95": 0.1, "accuracy_top5": 0.999, "worst_class_drop": 0.1,
        "calibration_error": 0.02, "sparsity": 1 - kept, "params": 1000, "params_nonzero": int(1000 * kept),
        "params_ratio": 1 / kept if thin else 1.0, "macs": int(5000 * kept) if thin else 5000,
        "macs_ratio": 1 / kept if thin else 1.0, "size_compressed_bytes": int(3000 * kept), "seeds": 3, "imported": 0,
    }  # fmt: skip


def point(method: str, ratio: float) -> dict:
    own = {
        "method": method,
        "ratio": ratio,
        "key": f"{method}-{ratio}",
        "same_as": "",
        "colour": "#000000",
    }
    return own | metrics(0.99 - ratio / 10, 1 - ratio, "channel" in method)


def details() -> dict:
    layers = [
        {
            "layer": name,
            "width": 8.0,
            "width_dense": 16,
            "weights_dense": 100,
            "weights_nonzero": 40,
            "sparsity": 0.6,
        }
        for name in LAYERS
    ]
    measures = [
        {"measure": "f1_macro", "n": 3, "mean": 0.9, "sd": 0.01, "ci95": 0.02},
        {"measure": "loss", "n": 1, "mean": 1},
    ]
    return {
        "measures": measures,
        "layers": layers,
        "weights": {"limit": 1.0, "zeros": 5, "counts": [1, 5, 9, 5, 1]},
    }


def findings() -> ReportData:
    points = [point(method, ratio) for method in METHODS for ratio in RATIOS]
    keys = ["dense", *(each["key"] for each in points)]
    latency = [
        {
            "name": key, "backend": "eager", "precision": "fp32", "batch_size": size,
            "latency_ms_p50": 2.0 + index / 10, "told": "1.10x",
            "latency_ms_quantiles": [1 + q / 10 + index / 10 for q in range(21)],
        }
        for index, key in enumerate(keys)
        for size in (1, 64)
    ]  # fmt: skip
    operators = [
        {
            "name": key,
            "operator": name,
            "calls": 1.0,
            "cpu_ms": 1.0,
            "cuda_ms": 0.0,
            "batch_size": 64,
        }
        for key in keys
        for name in ("aten::convolution", "others")
    ]
    history = [
        {
            "name": name,
            "group": "fine-tuning",
            "epoch": epoch,
            "accuracy": 0.5,
            "validation_accuracy": 0.6,
        }
        for name in ("dense", "l1_channel")
        for epoch in (1, 2)
    ]
    return ReportData(
        title="</script> & a network on <data>",  # whatever is named must not break the page
        facts={"data": "digits", "measured on": "a machine"},
        dense=metrics(0.99, 1.0, thin=False),
        points=points,
        details=dict.fromkeys(keys, details()),
        training=history,
        confusion=[
            {"actual": 0, "predicted": 0, "count": 5},
            {"actual": 1, "predicted": 0, "count": 1},
        ],
        classes=["cat", "</script>dog"],
        sensitivity={
            "accuracy": 0.99,
            "skipped": {"head": "a network has no heads"},
            "rows": [
                {
                    "granularity": kind,
                    "layer": layer,
                    "ratio": ratio,
                    "removed": ratio,
                    "accuracy": 1 - ratio / 2,
                }
                for kind in ("weight", "channel")
                for layer in (*LAYERS, "all")
                for ratio in (0.5, 0.9)
            ],
        },
        speed={"latency": latency, "operators": operators},
    )
