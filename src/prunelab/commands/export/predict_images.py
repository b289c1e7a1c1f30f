"""Print the three likeliest classes of images: python predict.py photo.jpg more/*.png

It needs NumPy, Pillow, and onnxruntime or torch; the rest is in this folder.
"""

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent


def load_model() -> Callable[[np.ndarray], np.ndarray]:
    """What turns inputs [1, channels, height, width] into scores [1, classes]."""
    if (HERE / "model.onnx").exists() and find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(HERE / "model.onnx")
        return lambda inputs: session.run(None, {"input": inputs})[0]

    import torch

    model = torch.export.load(HERE / "model.pt2").module()
    return lambda inputs: model(torch.from_numpy(inputs)).detach().numpy()


def read(path: str, settings: dict[str, Any]) -> np.ndarray:
    """An image as the input of the network: float32 [1, channels, height, width]."""
    image: Image.Image = Image.open(path)
    if settings["exif"] == "apply":
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey
        levels = np.asarray(image) >> (settings["grey_bits"] - 8)
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")

    # The largest part in the middle that has the input's shape.
    (width, height), (to_width, to_height) = image.size, (settings["width"], settings["height"])
    part_width = max(1, min(width, height * to_width // to_height))
    part_height = max(1, min(height, width * to_height // to_width))
    left, top = (width - part_width) // 2, (height - part_height) // 2
    box = (left, top, left + part_width, top + part_height)
    resampling = Image.Resampling[settings["interpolation"].upper()]
    image = image.convert("RGB").resize((to_width, to_height), resampling, box=box)

    pixels = np.asarray(image.convert(settings["mode"])).reshape(to_height, to_width, -1)
    scaled = (pixels / 255 - settings["mean"]) / settings["std"]
    inputs: np.ndarray = scaled.transpose(2, 0, 1)[None].astype(np.float32)
    return inputs


def main() -> None:
    settings = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
    classes = (HERE / "classes.txt").read_text(encoding="utf-8").splitlines()

    model = load_model()
    for path in sys.argv[1:]:
        scores = model(read(path, settings))[0].astype(float)
        probabilities = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        likeliest = np.argsort(-probabilities, kind="stable")[:3]
        print(f"{path}:", ", ".join(f"{classes[i]} {probabilities[i]:.3f}" for i in likeliest))


if __name__ == "__main__":
    main()
