"""One weight in several layers: it is one weight to prune, whichever of its layers is asked."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunelab
from prunelab.config.restart import Restart
from prunelab.models.cost import parameters, weight_positions
from prunelab.models.networks import prunable_names, prunable_weights
from prunelab.pruning.criteria import CRITERIA, CalibrationData
from prunelab.pruning.methods import METHODS


class Tied(nn.Module):
    """Two linear layers with one weight and biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu())


class Decoder(nn.Module):
    """The embedding's table is the weight of the head, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.wide = nn.Linear(8, 32)
        self.narrow = nn.Linear(32, 16)
        self.back = nn.Linear(16, 8)
        self.head = nn.Linear(8, 50)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wide(self.embedding(tokens).mean(1)).relu()
        return self.head(self.back(self.narrow(x).relu()))


def numbers() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 8, generator=generator)
    return [(inputs, torch.randint(4, (12,), generator=generator))]


def tokens() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(50, (12, 5), generator=generator)
    return [(inputs, torch.randint(50, (12,), generator=generator))]


def tied() -> Tied:
    torch.manual_seed(0)
    return Tied().eval()


def scores(name: str, model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return CRITERIA[name](model, CalibrationData(generator, numbers))


MASKING = [
    name
    for name, method in METHODS.items()
    if method.masks
    and not method.trains
    and method.restart is Restart.NONE
    and method.granularity not in ("pattern", "vector", "kernel")
]


@pytest.mark.parametrize("method", MASKING)
def test_every_mask_method_prunes_a_weight_of_two_layers_once(method):
    model = tied()
    result = prunelab.prune(model, numbers()[0][0], method, 0.5, "native", data=numbers())

    assert set(result.masks) <= {"first.weight", "head.weight"}
    assert result.model.second.weight is result.model.first.weight
    zeros = ~result.masks["first.weight"]
    assert zeros.any()
    assert (result.model.second.weight[zeros] == 0).all()
    assert result.ratio_achieved == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("method", ["l1_unstructured", "taylor_unstructured", "l1_filter"])
def test_a_table_of_tokens_that_is_the_head_as_well_is_pruned_as_the_head(method):
    result = prunelab.prune(Decoder(), tokens()[0][0], method, 0.5, "native", data=tokens())

    model = result.model
    assert model.head.weight is model.embedding.weight
    assert ("head.weight" in result.masks) == (method != "l1_filter")
    for name, mask in result.masks.items():
        assert (model.get_parameter(name)[~mask] == 0).all()


def test_a_weight_goes_by_the_name_of_its_first_layer():
    model = tied()

    assert list(prunable_weights(model)) == ["first.weight", "head.weight"]
    assert prunable_names(model) == {
        "first.weight": "first.weight",
        "second.weight": "first.weight",
        "head.weight": "head.weight",
    }


def test_taylor_scores_it_by_the_gradient_from_all_of_its_layers():
    model = tied()
    inputs, labels = numbers()[0]
    F.cross_entropy(model(inputs), labels).backward()

    expected = (model.first.weight * model.first.weight.grad).abs()
    torch.testing.assert_close(scores("taylor", model)["first.weight"], expected.detach())


def test_wanda_scores_it_by_the_inputs_of_all_of_its_layers():
    model = tied()
    inputs = numbers()[0][0]
    both = torch.cat([inputs, model.first(inputs).relu()])

    expected = model.first.weight.abs() * both.norm(dim=0)
    torch.testing.assert_close(scores("wanda", model)["first.weight"], expected.detach())


def test_all_synaptic_flow_passes_through_it_twice():
    assert scores("synflow", tied())["first.weight"].sum() == pytest.approx(2)


@pytest.mark.parametrize("layer", ["first", "second"])
def test_it_is_protected_by_the_name_of_any_of_its_layers(layer):
    result = prunelab.prune(
        tied(), numbers()[0][0], "l1_unstructured", 0.5, "native", protect=[layer]
    )

    assert set(result.masks) == {"head.weight"}


def test_its_products_are_counted_in_all_of_its_layers():
    model = tied()
    assert weight_positions(model, numbers()[0][0][:1]) == {"first.weight": 2, "head.weight": 1}

    result = prunelab.prune(model, numbers()[0][0], "l1_unstructured", 0.5, "macs")
    kept = {name: int(mask.sum()) for name, mask in result.masks.items()}
    assert result.macs_nonzero == 2 * kept["first.weight"] + kept["head.weight"]
    assert result.ratio_achieved == pytest.approx(1 - result.macs_nonzero / result.macs)
    assert result.params_before == parameters(model)


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.3])
def test_a_budget_of_parameters_counts_it_once(ratio):
    result = prunelab.prune(Decoder(), tokens()[0][0], "l1_channel", ratio, "params")

    removed = 1 - parameters(result.model) / parameters(Decoder())
    assert result.ratio_achieved == pytest.approx(removed)
    assert removed == pytest.approx(ratio, abs=0.05)
