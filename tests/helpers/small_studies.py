"""Three small studies that between them use every kind of operation, for whole runs of the stages.

Images are noise and texts are random words: what is learnt does not matter.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers.all_stages import stage_commands
from helpers.data import encoder_folder
from helpers.params import PROJECT, edit_params
from prunelab.config.params import read_params
from prunelab.pruning.methods import METHODS, Method

WORDS = ("a", "film", "fine", "dull", "unknown")
RATIO = 0.5
PARTS = ("criterion", "granularity", "scope", "schedule", "restart")


def write_small_studies(folder: Path) -> dict[str, list[list[str]]]:
    """Write parameters and data of each study to a folder of its own.

    Returns the commands that make each: module and arguments of every stage. `digits` is the
    shipped study, shortened. `pictures` prunes single weights, small groups and channels in every
    way there is; `texts` heads and hidden units of an encoder. These two draw nothing, and train
    and evaluate what another kind of method has made, or a restart, only once.
    """
    commands = {}
    for name, write in (("digits", _digits), ("pictures", _pictures), ("texts", _texts)):
        study = folder / name
        study.mkdir(parents=True)
        shutil.copy(PROJECT / "params.yaml", study)
        write(study)

        params = read_params(study / "params.yaml")
        commands[name] = stage_commands(params)
        if name != "digits":
            commands[name] = [each for each in commands[name] if _shown(each, params["grid"])]
    return commands


def _shown(command: list[str], grid: Mapping[str, Any]) -> bool:
    """Whether a command of a study is not like another one, and no picture."""
    stage, *arguments = command
    if stage.startswith("plot"):
        return False
    if stage not in ("finetune", "evaluate"):
        return True

    methods = {name: METHODS[name] for name in grid["methods"]}
    repeated = set(methods) - set(covering(methods, "masks", "restart"))
    keys = {f"models/grid/{name}-{RATIO}/pruned" for name in repeated}
    return not keys & set(arguments)


def covering(methods: Mapping[str, Method], *parts: str) -> Iterator[str]:
    """As many methods as it takes for each of these parts to be seen in every form."""
    seen: set[tuple[str, object]] = set()
    for name, method in methods.items():
        forms = {(part, getattr(method, part)) for part in parts}
        if not forms <= seen:
            seen |= forms
            yield name


def _digits(folder: Path) -> None:
    edit_params(
        folder / "params.yaml",
        seeds=[0],
        budget="macs",
        grid__methods=["l1_unstructured", "l1_channel"],
        grid__ratios=[RATIO],
        train__epochs=2,
        train__batch_size=256,
        finetune__epochs=1,
        finetune__batch_size=256,
        sensitivity__samples=50,
        sensitivity__ratios=[RATIO],
    )


def _pictures(folder: Path) -> None:
    """Photographs as JPEG and PNG, in sizes that have to be changed."""
    random = np.random.default_rng(0)
    for number in range(48):
        path = folder / f"source/class{number % 2}/{number}.{('jpg', 'png')[number % 3 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (17 + number % 24, 40 - number % 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    on_images = {name: each for name, each in METHODS.items() if each.kind in (None, "channel")}
    _shorten(folder, covering(on_images, *PARTS))
    edit_params(
        folder / "params.yaml",
        dataset="imagefolder",
        data__source="source",
        data__resize=8,
        data__flip=True,
        train__optimizer="adam",
        train__schedule="cosine",
        train__learning_rate=0.01,
        finetune__distill=0.5,
        prune__recalibrate=24,
    )


def _texts(folder: Path) -> None:
    random = np.random.default_rng(0)
    rows = ["text\tlabel"]
    for number in range(48):
        rows.append(f"{' '.join(random.choice(WORDS, 6))}\t{('good', 'bad')[number % 2]}")
    (folder / "table.tsv").write_text("\n".join(rows) + "\n")
    encoder_folder(folder / "encoder")

    on_texts = {name: each for name, each in METHODS.items() if each.kind in ("head", "hidden")}
    _shorten(folder, covering(on_texts, *PARTS))
    edit_params(
        folder / "params.yaml",
        dataset="text_tsv",
        data__source="table.tsv",
        data__tokens=8,
        model="bert",
        weights="encoder",
        method="l1_head",
        train__optimizer="adamw",
        train__learning_rate=0.001,
        train__schedule="step",
        train__milestones=[0.5],
        train__label_smoothing=0.1,
    )


def _shorten(folder: Path, methods: Iterator[str]) -> None:
    edit_params(
        folder / "params.yaml",
        seeds=[0],
        grid__methods=list(methods),
        grid__ratios=[RATIO],
        ratio=RATIO,
        train__epochs=2,
        train__batch_size=16,
        finetune__epochs=1,
        finetune__batch_size=16,
        prune__samples=16,
        prune__iterations=2,
        prune__epochs=1,
        sensitivity__ratios=[RATIO],
        evaluate__bootstrap_samples=100,
    )
