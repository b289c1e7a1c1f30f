"""Units of weights as tiles of a weight tensor: rows of kernels, kernels, blocks, filters.

Neither averaging a saliency over tiles nor expanding a choice of tiles to a mask takes an index for
every weight.
"""

from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

WeightShape = tuple[int, ...]  # [out, in] or [out, in / groups, height, width]


@dataclass(frozen=True)
class Tiling:
    """A weight tensor seen as a matrix that is divided into tiles, one for each unit.

    The matrix has `rows` x `columns` weights, a tile has `tile_rows` x `tile_columns`. Tiles at the
    lower and right edge may be smaller. Units are numbered row by row.
    """

    rows: int
    columns: int
    tile_rows: int
    tile_columns: int

    def __len__(self) -> int:
        """The number of units."""
        return self._units_down * self._units_across

    @property
    def _units_down(self) -> int:
        return ceil(self.rows / self.tile_rows)

    @property
    def _units_across(self) -> int:
        return ceil(self.columns / self.tile_columns)

    @property
    def equal_size(self) -> int | None:
        """The number of weights of a unit; None if units at the edges are smaller."""
        if self.rows % self.tile_rows or self.columns % self.tile_columns:
            return None
        return self.tile_rows * self.tile_columns

    def means(self, saliency: Tensor) -> Tensor:
        """The mean saliency of every unit: [units]."""
        matrix = saliency.reshape(self.rows, self.columns)

        if self.tile_rows == self.tile_columns == 1:
            return matrix.flatten()
        if self.tile_rows == 1 and self.columns % self.tile_columns == 0:
            return matrix.view(-1, self.tile_columns).mean(1)

        # In `ceil_mode`, a tile at an edge is averaged over the weights that it has.
        tile = (self.tile_rows, self.tile_columns)
        return F.avg_pool2d(matrix.unsqueeze(0), tile, ceil_mode=True).flatten()

    def sizes(self) -> Tensor:
        """The number of weights of every unit: int64 [units]."""
        heights = _divide(self.rows, self.tile_rows)
        widths = _divide(self.columns, self.tile_columns)
        return torch.outer(heights, widths).flatten()

    def expand(self, values: Tensor, shape: WeightShape) -> Tensor:
        """Give every weight the value of its unit: [units] to the shape of the weight tensor."""
        tiles = values.view(self._units_down, self._units_across)
        across = tiles.repeat_interleave(self.tile_columns, dim=1)[:, : self.columns]
        return across.repeat_interleave(self.tile_rows, dim=0)[: self.rows].reshape(shape)


def _divide(total: int, length: int) -> Tensor:
    """The lengths of the parts of a line, all of them `length` but perhaps the last: int64."""
    parts = ceil(total / length)
    last = total - length * (parts - 1)
    return torch.tensor([length] * (parts - 1) + [last])
