"""Sums over a pass through the data, and the bar that shows them."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from prunelab.runtime.bars import on_terminal, open_bar

REFRESH_S = 0.5  # how often the bar's numbers change


def _unchanged(sums: Tensor) -> Tensor:
    return sums


class RunningMetrics:
    """Sums of loss and correct answers over a pass, kept on the device: reading makes a GPU wait.

    The sums stay in the same tensors, so that a recorded step can add to them.
    """

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._non_finite_batches = torch.zeros((), dtype=torch.int64, device=device)
        self._images = 0

    def restart(self) -> None:
        """Begin another pass."""
        for sums in (self._loss, self._correct, self._non_finite_batches):
            sums.zero_()
        self._images = 0

    def count(self, images: int) -> None:
        """Count the images of a batch that is added."""
        self._images += images

    def add(self, loss_sum: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: the loss summed over its examples, logits [B, classes], labels [B].

        Its images are counted apart, by `count`.
        """
        self._loss += loss_sum
        self._correct += (logits.argmax(1) == labels).sum()
        # A sum that is not finite stays so: this counts the first bad batch and all after it.
        self._non_finite_batches += ~self._loss.isfinite()

    def means(self, summed: Callable[[Tensor], Tensor] = _unchanged) -> tuple[float, float]:
        """Loss and accuracy per image; `summed` adds the sums of other processes."""
        images = torch.full_like(self._loss, self._images)
        sums = summed(torch.stack([self._loss, self._correct.double(), images]))
        loss, correct, count = sums.tolist()
        return loss / count, correct / count

    def finite_batches(self, batches: int, summed: Callable[[Tensor], Tensor] = _unchanged) -> int:
        """How many of the `batches` passed before the loss of any process became non-finite."""
        processes_by_count = torch.zeros(
            batches + 1, dtype=torch.int64, device=self._non_finite_batches.device
        )
        processes_by_count[batches - self._non_finite_batches] = 1
        return int(summed(processes_by_count).nonzero()[0])


class Progress:
    """A bar over all steps of a run with loss, accuracy, images/s and time left.

    It appears on a terminal only, and only if `shown`.
    """

    def __init__(
        self, label: str, *, total_steps: int, first_step: int, shown: bool = True
    ) -> None:
        self._visible = shown and on_terminal()
        self._bar = open_bar(label, total=total_steps, first=first_step, shown=shown)

        self._refreshed_at = time.monotonic()
        self._images = 0  # since then
        self._validation = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, images: int, metrics: RunningMetrics) -> None:
        """Count a step of so many images."""
        self._bar.update()
        self._images += images

        elapsed_s = time.monotonic() - self._refreshed_at
        if self._visible and elapsed_s > REFRESH_S:
            loss, accuracy = metrics.means()
            images_per_s = self._images / elapsed_s
            self._bar.set_postfix_str(
                f"loss {loss:.3f}, acc {accuracy:.1%}, "
                f"{images_per_s:,.0f} images/s{self._validation}"
            )
            self._refreshed_at, self._images = time.monotonic(), 0

    def validated(self, row: dict[str, float]) -> None:
        """Show the accuracy of a validation. Its time does not count as training time."""
        self._refreshed_at, self._images = time.monotonic(), 0
        self._validation = f", val acc {row['validation_accuracy']:.1%}"
