"""Units of weights as tiles of a tensor seen as a matrix: rows of kernels, kernels, blocks, filters.

Neither pooling a saliency over tiles nor widening a choice to a mask takes an index for every weight.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]  # of a weight tensor: [out, in] or [out, in / groups, height, width]


@dataclass(frozen=True)
class Tiling:
    """A tensor seen as a matrix of `rows` x `columns` weights, cut into tiles of `tall` x `wide`, less at the edges."""

    rows: int
    columns: int
    tall: int
    wide: int

    def __len__(self) -> int:
        """How many units there are."""
        return -(-self.rows // self.tall) * -(-self.columns // self.wide)

    def numbers(self, shape: Shape) -> Tensor:
        """The number of every weight's unit, int64 of the tensor's shape."""
        row, column = torch.arange(self.rows) // self.tall, torch.arange(self.columns) // self.wide
        return (row.unsqueeze(1) * (-(-self.columns // self.wide)) + column).view(shape)

    def means(self, saliency: Tensor) -> Tensor:
        """The mean saliency of every unit, [units]."""
        matrix = saliency.reshape(self.rows, self.columns)
        if self.tall == self.wide == 1:
            return matrix.flatten()
        if self.tall == 1 and self.columns % self.wide == 0:
            return matrix.view(-1, self.wide).mean(1)
        pooled = F.avg_pool2d(
            matrix.unsqueeze(0), (self.tall, self.wide), ceil_mode=True
        )  # edges: of what is there
        return pooled.flatten()

    def sizes(self) -> Tensor:
        """How many weights every unit has, int64 [units]."""
        return torch.outer(
            _lengths(self.rows, self.tall), _lengths(self.columns, self.wide)
        ).flatten()

    def widen(self, kept: Tensor, shape: Shape) -> Tensor:
        """A mask of the tensor's shape from a choice of units, bool [units]."""
        tiles = kept.view(-(-self.rows // self.tall), -1)
        wide = tiles.repeat_interleave(self.wide, dim=1)[:, : self.columns]
        return wide.repeat_interleave(self.tall, dim=0)[: self.rows].reshape(shape)


def _lengths(total: int, length: int) -> Tensor:
    parts = -(-total // length)
    return torch.tensor([length] * (parts - 1) + [total - length * (parts - 1)])
