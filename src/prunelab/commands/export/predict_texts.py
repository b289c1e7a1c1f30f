"""Print the three likeliest classes of texts: python predict.py "a text" "another one"

It needs NumPy, tokenizers, and onnxruntime or torch; the rest is in this folder.
"""

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

HERE = Path(__file__).parent


def load_model() -> Callable[[np.ndarray], np.ndarray]:
    """What turns token ids [1, tokens] into scores [1, classes]."""
    if (HERE / "model.onnx").exists() and find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(HERE / "model.onnx")
        return lambda inputs: session.run(None, {"input": inputs})[0]

    import torch

    model = torch.export.load(HERE / "model.pt2").module()
    return lambda inputs: model(torch.from_numpy(inputs)).detach().numpy()


def main() -> None:
    settings = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
    classes = (HERE / "classes.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    tokenizer.enable_truncation(settings["tokens"])
    tokenizer.enable_padding(length=settings["tokens"], pad_id=settings["pad"])

    model = load_model()
    for text in sys.argv[1:]:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        scores = model(ids)[0].astype(float)
        probabilities = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        likeliest = np.argsort(-probabilities, kind="stable")[:3]
        print(f"{text}:", ", ".join(f"{classes[i]} {probabilities[i]:.3f}" for i in likeliest))


if __name__ == "__main__":
    main()
