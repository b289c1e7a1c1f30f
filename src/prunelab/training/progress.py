"""Sums over a pass through the data, and the bar that shows them."""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm


class RunningMetrics:
    """Sums of loss and hits, kept on the device: reading them is what makes a GPU wait."""

    def __init__(self, device: torch.device):
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._hits = torch.zeros((), dtype=torch.int64, device=device)
        self._lost = torch.zeros((), dtype=torch.int64, device=device)
        self._images = 0

    def add(self, loss_sum: Tensor, logits: Tensor, labels: Tensor) -> None:
        self._loss += loss_sum
        self._hits += (logits.argmax(1) == labels).sum()
        self._lost += ~self._loss.isfinite()  # a sum that is no number stays none
        self._images += len(labels)

    def means(self, summed: Callable[[Tensor], Tensor] = lambda sums: sums) -> tuple[float, float]:
        """Loss and accuracy per image; `summed` adds the sums of other processes."""
        images = torch.full_like(self._loss, self._images)
        loss, hits, count = summed(torch.stack([self._loss, self._hits.double(), images])).tolist()
        return loss / count, hits / count

    def sound(self, batches: int, summed: Callable[[Tensor], Tensor] = lambda sums: sums) -> int:
        """After how many of so many batches the loss was still a finite number in every process."""
        found = torch.zeros(batches + 1, dtype=torch.int64, device=self._lost.device)
        found[batches - self._lost] = 1
        return int(summed(found).nonzero()[0])


class Progress:
    """A bar over all images of a run with loss, accuracy, images/s and time left, `shown` on a terminal only."""

    def __init__(
        self,
        label: str,
        epochs: int,
        steps_per_epoch: int,
        done: int,
        refresh_s: float = 0.5,
        *,
        shown: bool = True,
    ):
        self._terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(
            total=epochs * steps_per_epoch,
            initial=done * steps_per_epoch,
            desc=label,
            unit="step",
            disable=not self._terminal,
            leave=False,
        )
        self._refresh_s, self._shown, self._images = refresh_s, time.monotonic(), 0
        self._validation = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, images: int, tally: RunningMetrics) -> None:
        self._bar.update()
        self._images += images
        elapsed = time.monotonic() - self._shown
        if self._terminal and elapsed > self._refresh_s:
            loss, accuracy = tally.means()
            rate = self._images / elapsed
            self._bar.set_postfix_str(
                f"loss {loss:.3f}, acc {accuracy:.1%}, {rate:,.0f} images/s{self._validation}"
            )
            self._shown, self._images = time.monotonic(), 0

    def validated(self, row: dict[str, float]) -> None:
        self._shown, self._images = time.monotonic(), 0  # validation is not training time
        self._validation = f", val acc {row['validation_accuracy']:.1%}"
