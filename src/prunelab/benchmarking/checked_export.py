"""Write a network in a format that other programs read, if the file agrees with the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prunelab.benchmarking.export_formats import Runner, get_format, quiet, trace
from prunelab.core.errors import InputError
from prunelab.core.files import replacing

# Relative to the largest score. Another order of float32 additions makes a difference of 1e-6.
TOLERANCE = 1e-4
CHECKED_BATCH_SIZES = (1, 2, 7)


@dataclass(frozen=True)
class Agreement:
    """How far the scores of the file are from those of the network at one batch size.

    `absolute` is the largest difference, `relative` the same divided by the largest score.
    """

    batch_size: int
    absolute: float
    relative: float
    same_classes: bool

    @property
    def holds(self) -> bool:
        return self.relative <= TOLERANCE and self.same_classes  # False for NaN

    def describe(self) -> str:
        classes = "the same classes" if self.same_classes else "other classes"
        return (
            f"batch {self.batch_size}: scores differ by at most {self.absolute:.1e}, "
            f"{self.relative:.1e} of the largest; {classes}"
        )


def write_agreeing(
    model: nn.Module,
    batches: Sequence[Tensor],
    form: str,
    out: Path,
    *,
    about: Mapping[str, str],
    threads: int,
) -> list[Agreement]:
    """Write a network as `onnx` or `pt2`, for batches of any size, and check the file.

    The file is checked on all `batches`, [B, ...], which must have several sizes. `about` is the
    metadata of the file.

    Returns:
        How well the scores of the file agree with the network's, batch by batch.

    Raises:
        InputError: if the format does not exist, its packages are missing, or the file does not
            agree with the network. Then nothing is written, and an older file `out` stays.
    """
    exporter = get_format(form)
    traced_batch = next(batch for batch in batches if len(batch) > 1)

    with quiet(), replacing(out) as partial:
        exporter.write(trace(model, traced_batch), partial, about)
        run = exporter.load(partial, threads)
        agreements = [_compare(model, run, batch) for batch in batches]
        _check_agreements(agreements, form, out)
    return agreements


def _compare(model: nn.Module, run: Runner, inputs: Tensor) -> Agreement:
    """Compare the scores of a network with those of its file on one batch."""
    with torch.inference_mode():
        expected, actual = model(inputs), run(inputs)
    assert actual.shape == expected.shape

    absolute = float((actual - expected).abs().max())
    largest = max(float(expected.abs().max()), 1e-30)
    same_classes = bool((actual.argmax(1) == expected.argmax(1)).all())
    return Agreement(len(inputs), absolute, absolute / largest, same_classes)


def _check_agreements(agreements: Sequence[Agreement], form: str, out: Path) -> None:
    """Raise InputError for every batch size at which the file does not agree."""
    broken = [agreement for agreement in agreements if not agreement.holds]

    if broken:
        valid = f"valid: {TOLERANCE:g} of the largest, and the same classes"
        raise InputError(
            f"{out}: not written, because the {form} file does not agree with the network: "
            f"{agreement.describe()}; {valid}"
            for agreement in broken
        )
