"""Layers that 2:4 sparse kernels can run, and a network that runs them; the kernels need a GPU."""

import pytest
import torch
from helpers.params import runtime_params
from torch import nn
from torch.nn import functional as F

from prunelab.benchmarking.semi_structured import (
    semi_structured,
    sparse_layers,
    with_sparse_layers,
)
from prunelab.benchmarking.speed_table import speed_table
from prunelab.core.errors import InputError
from prunelab.runtime.device import configure


def two_of_four(layer: nn.Module, kept: int = 2) -> nn.Module:
    """Zero all but the first `kept` of every four neighbours in a row."""
    matrix = layer.weight.data.flatten(1)
    outputs, inputs = matrix.shape
    mask = torch.zeros(outputs, inputs // 4, 4)
    mask[:, :, :kept] = 1
    layer.weight.data *= mask.view_as(layer.weight)
    return layer


class Mixed(nn.Module):
    """Linear layers and convolutions, some of which sparse kernels can run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = two_of_four(nn.Conv2d(64, 64, 3, padding=1))
        self.pointwise = two_of_four(nn.Conv2d(64, 32, 1))
        self.strided = two_of_four(nn.Conv2d(32, 64, 1, stride=2))
        self.grouped = two_of_four(nn.Conv2d(64, 64, 1, groups=4))
        self.hidden = two_of_four(nn.Linear(64, 64, bias=False))
        self.dense = two_of_four(nn.Linear(64, 64), kept=3)
        self.narrow = two_of_four(nn.Linear(64, 10))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.grouped(self.strided(self.pointwise(self.stem(inputs)))).mean((2, 3))
        logits: torch.Tensor = self.narrow(self.dense(self.hidden(features)))
        return logits


def test_linear_layers_and_pointwise_convolutions_of_fitting_sizes_qualify():
    assert sparse_layers(Mixed()) == ["pointwise", "hidden"]


def test_a_dense_network_has_no_such_layer():
    torch.manual_seed(0)
    assert sparse_layers(nn.Sequential(nn.Conv2d(64, 64, 1), nn.Linear(64, 64))) == []


def test_the_network_computes_the_same_with_compressed_matrices():
    torch.manual_seed(0)
    model = Mixed().eval()
    inputs = torch.randn(2, 64, 6, 5)
    compressed = []

    def compress(matrix: torch.Tensor) -> torch.Tensor:
        compressed.append(tuple(matrix.shape))
        return matrix.clone()

    replaced = with_sparse_layers(model, compress)

    torch.testing.assert_close(replaced(inputs), model(inputs))
    assert compressed == [(32, 64), (64, 64)]
    assert type(model.pointwise) is nn.Conv2d  # the network itself stays


class RowsOnly(torch.Tensor):
    """A matrix that multiplies only what can be viewed as rows, as torch's sparse matrices do."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is F.linear:
            args[0].view(-1, args[0].shape[-1])
        return super().__torch_function__(func, types, args, kwargs)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_compressed_matrices_get_inputs_that_can_be_viewed_as_rows(order):
    torch.manual_seed(0)
    model = Mixed().eval().to(memory_format=order)
    inputs = torch.randn(2, 64, 6, 5).to(memory_format=order)

    replaced = with_sparse_layers(model, lambda matrix: matrix.as_subclass(RowsOnly))

    torch.testing.assert_close(replaced(inputs).as_subclass(torch.Tensor), model(inputs))


def test_a_network_may_read_the_compressed_weight_itself():
    model = nn.Sequential(two_of_four(nn.Linear(64, 32)))
    inputs = torch.randn(5, 64)

    (layer,) = with_sparse_layers(model, torch.clone)

    torch.testing.assert_close(F.linear(inputs, layer.weight, layer.bias), model(inputs))


def test_a_cpu_is_refused():
    execution = configure(runtime_params(device="cpu"))
    with pytest.raises(InputError, match="semi_structured needs a GPU"):
        semi_structured(Mixed().eval(), torch.randn(1, 64, 6, 6), execution)


def speed_record(**layers_by_network: list[str]) -> dict:
    rows = []
    for name, layers in layers_by_network.items():
        rows.append(
            {
                "name": name,
                "backend": "semi_structured",
                "precision": "bf16",
                "batch_size": 64,
                "latency_ms_p50": 1.0,
                "sparse_layers": layers,
            }
        )
    return {
        "environment": {
            "device": "a card",
            "cuda": "13.0",
            "threads": 1,
            "precision": "bf16",
            "memory_format": "torch.channels_last",
            "packages": {"torch": "2"},
        },
        "load": {"cores": 2, "load_1min": 0.0, "busy": []},
        "rounds": 10,
        "seed": 0,
        "latency": rows,
        "memory": [{"name": "dense", "peak_bytes": None}],
        "energy": "no counter",
    }


def test_the_speed_table_names_the_layers():
    table = speed_table(speed_record(dense=[], masked=["pointwise", "hidden"]), "title")
    assert "Layers run by 2:4 sparse kernels: masked: pointwise, hidden." in table


def test_the_speed_table_says_that_no_layer_qualifies():
    assert "No network has layers" in speed_table(speed_record(dense=[], masked=[]), "title")


@pytest.mark.gpu
def test_sparse_kernels_give_the_outputs_of_dense_ones_on_a_gpu():
    execution = configure(runtime_params(device="cuda"))
    torch.manual_seed(0)
    model = execution.place(Mixed()).eval()
    inputs = torch.randn(64, 64, 8, 8, device="cuda")

    outputs = semi_structured(model, inputs, execution)()

    with torch.inference_mode():
        expected = model(inputs)
    torch.testing.assert_close(outputs.float(), expected, rtol=5e-2, atol=2e-2)
